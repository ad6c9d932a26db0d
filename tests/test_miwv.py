"""MIWV of a small real model against float64 forwards, one sequence at a time; what it leaves out and refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from one_by_one import OneByOne, plain
from run_process import command_server
from tiny_model import CONTEXT, load_models_once, tiny_model_folder, write_alpaca
from transformers import AutoTokenizer

import instsel
from instsel.cli import main
from instsel.methods.miwv import miwv
from instsel.neighbors.embeddings import unit_rows
from instsel.neighbors.nearest import nearest_neighbors

TOLERANCE = 1e-4


def test_as_one_forward_a_row(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(12)
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    unit = unit_rows(vectors).astype(np.float64)
    cosines = unit @ unit.T - 3 * np.eye(12)
    near = cosines.argmax(1)
    before = np.array([truth.token_logprobs(plain(row), row["output"]).mean() for row in examples])
    after = np.array(
        [
            truth.token_logprobs(plain(row, examples[b]), row["output"]).mean()
            for row, b in zip(examples, near, strict=True)
        ]
    )
    found = miwv(scorer, examples, embedder=vectors)
    assert found.neighbor.tolist() == near.tolist() and found.status.tolist() == ["ok"] * 12
    np.testing.assert_allclose(found.similarity, cosines.max(1), atol=1e-6)
    np.testing.assert_allclose(found.conditional, before, rtol=TOLERANCE)
    np.testing.assert_allclose(found.one_shot, after, rtol=TOLERANCE)
    np.testing.assert_allclose(found.score, -after - -before, atol=TOLERANCE)
    given = miwv(scorer, examples, neighbors=near)
    np.testing.assert_allclose(given.score, found.score, atol=1e-5)
    assert np.isnan(given.similarity).all(), "nothing was embedded"
    assert miwv(scorer, examples, neighbors=near, embedder=vectors).similarity.tolist() == found.similarity.tolist()
    # The controls: the other way round, and with the farthest row.
    assert np.abs(found.score + (before - after)).max() > 100 * TOLERANCE
    farthest = miwv(scorer, examples, neighbors=(cosines + 9 * np.eye(12)).argmin(1))
    assert np.abs(farthest.score - found.score).max() > 100 * TOLERANCE


def test_the_authors_wording_as_a_chat_template(truth: OneByOne) -> None:
    """`User: ...` and `Assistant: ...`, turns on lines of their own; a token across the boundary is the answer's."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '' if loop.first else '\n' }}"
        "{{ 'User: ' if m.role == 'user' else 'Assistant: ' }}{{ m.content }}{% endfor %}"
        "{{ '\nAssistant: ' if add_generation_prompt else '' }}"
    )
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32")
    examples = example_rows(8)
    found = miwv(scorer, examples, neighbors=[(i + 3) % 8 for i in range(8)], template="chat")
    for i, row in enumerate(examples):
        shown = examples[(i + 3) % 8]
        prompt, other = (
            one["instruction"] + ("\n" + one["input"] if one["input"].strip() else "") for one in (row, shown)
        )
        context = f"User: {prompt}\nAssistant: "
        one_shot = f"User: {other}\nAssistant: {shown['output']}\n{context}"
        want = [-truth.token_logprobs(text, row["output"]).mean() for text in (one_shot, context)]
        assert found.score[i] == pytest.approx(want[0] - want[1], abs=TOLERANCE)


def test_failures_and_rows_without_a_neighbor(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(7)
    examples[1]["output"] = " "
    examples[2]["output"] = "the " * (CONTEXT - truth.length(plain(examples[2])) - 1)  # fits, and after no row
    examples[3]["output"] = "the " * 400
    found = miwv(scorer, examples, neighbors=[4, 0, 0, 0, 1, -1, 3])
    assert found.status.tolist() == [
        "ok", "empty_target", "too_long", "too_long", "empty_target", "empty_target", "too_long",
    ]  # fmt: skip
    assert np.isfinite(found.score).tolist() == [status == "ok" for status in found.status]
    assert np.isfinite(found.conditional).tolist() == [True, False, True, False, True, True, True]
    assert found.neighbor.tolist() == [4, 0, 0, 0, 1, -1, 3]
    assert miwv(scorer, []).score.shape == (0,)
    one = miwv(scorer, example_rows(1))
    assert (one.status.tolist(), one.neighbor.tolist()) == (["empty_target"], [-1])
    zeros = miwv(scorer, example_rows(3), embedder=np.array([[1.0, 0.0], [0.0, 0.0], [0.5, 0.5]]))
    assert zeros.neighbor.tolist() == [2, -1, 0] and zeros.status.tolist() == ["ok", "empty_target", "ok"]


@pytest.mark.parametrize(
    ("neighbors", "message"),
    [
        ([1, 2], r"neighbors must be whole numbers \[3\], .*got int64 of shape \[2\]"),
        ([[1], [2], [0]], r"whole numbers \[3\], .*shape \[3, 1\]"),
        ([1.0, 2.0, 0.0], r"whole numbers \[3\], .*got float64"),
        ([1, 3, 0], "neighbors must be rows from 0 to 2, or -1 for none, got 3"),
        ([1, -2, 0], "or -1 for none, got -2"),
        ([1, 0, 2], "neighbors must be other rows, but row 2 is its own neighbour"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, neighbors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        miwv(scorer, example_rows(3), neighbors=neighbors)


def command(rows: Path, output: Path, *more: object) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
    return ["miwv", str(rows), *model, "--output", str(output), *map(str, more)]


def test_the_command_writes_what_the_function_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    rows = write_alpaca(tmp_path / "rows.jsonl", 50)
    held = [json.loads(line) for line in rows.read_text().splitlines()]
    np.save(tmp_path / "neighbors.npy", np.roll(np.arange(50), 7))
    np.save(tmp_path / "own.npy", np.arange(50))
    for output, flags, options in (
        ("found", [], {}),
        ("given", ["--neighbors", tmp_path / "neighbors.npy"], {"neighbors": np.roll(np.arange(50), 7)}),
    ):
        assert main(command(rows, tmp_path / output, "--shard-rows", 16, *flags)) == 0
        want, table = miwv(scorer, held, **options), pq.read_table(tmp_path / output / "scores.parquet")
        score = [np.nan if x is None else x for x in table.column("score").to_pylist()]
        np.testing.assert_allclose(score, want.score, atol=2e-5)
        assert table.column("neighbor").to_pylist() == want.neighbor.tolist()
        assert table.column("status").to_pylist() == want.status.tolist() and len(set(want.status)) > 1
    assert main(command(rows, tmp_path / "own", "--neighbors", tmp_path / "own.npy")) == 2
    assert "neighbors must be other rows, but row 0 is its own neighbour" in capsys.readouterr().err


@pytest.mark.long
def test_a_run_that_is_killed_goes_on(tmp_path: Path) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 120)
    with command_server(tmp_path) as server:
        straight, killed = (command(rows, tmp_path / name, "--shard-rows", 6) for name in ("straight", "killed"))
        assert server.run(straight) == 0, server.errors
        child = server.start(killed)
        shards = tmp_path / "killed/shards"
        server.wait_for(child, lambda: len(list(shards.glob("miwv-*.parquet"))) >= 3)
        os.kill(child, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        before = len(server.computed)
        assert server.run(killed) == 0, server.errors
        again = [line for line in server.computed[before:] if line.startswith("miwv ")]
        assert 0 < len(again) <= 17, "what was whole is kept"
    want, got = (pq.read_table(tmp_path / name / "scores.parquet") for name in ("straight", "killed"))
    assert got.equals(want)


def test_ties_go_as_the_neighbor_search_says(scorer: instsel.Scorer) -> None:
    examples = [*example_rows(5), *example_rows(5)]
    found = miwv(scorer, examples)
    assert found.neighbor.tolist() == [5, 6, 7, 8, 9, 0, 1, 2, 3, 4], "a copy is the nearest"
    assert (found.similarity > 1 - 1e-9).all()
    vectors = np.random.default_rng(1).normal(size=(10, 3))
    near = nearest_neighbors(vectors, 1).index[:, 0]
    assert miwv(scorer, examples, embedder=vectors).neighbor.tolist() == near.tolist()
