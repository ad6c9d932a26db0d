"""DEITA against the full next-token distribution after its two prompts, and what `select` makes of its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from interrupted_run import interrupted_then_continued
from one_by_one import OneByOne
from tiny_model import load_models_once, make_tiny_model, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.rating_prompts import QUALITY_PROMPT, RATING_PROMPT

TOLERANCE = 1e-4  # relative
SHORT = {"complexity_prompt": "hard? {request}\n", "quality_prompt": "{request}\nis answered\n{response}\ngood?\n"}


def test_scores_are_products_of_expected_ratings(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = example_rows(14)
    found = instsel.deita(scorer, rows, **SHORT)
    complexity = [truth.expected_rating(SHORT["complexity_prompt"], row) for row in rows]
    quality = [truth.expected_rating(SHORT["quality_prompt"], row) for row in rows]
    np.testing.assert_allclose(found.complexity, complexity, rtol=TOLERANCE)
    np.testing.assert_allclose(found.quality, quality, rtol=TOLERANCE)
    np.testing.assert_allclose(found.score, np.multiply(complexity, quality), rtol=TOLERANCE)
    assert found.status.tolist() == ["ok"] * 14
    for wrong in (np.roll(quality, 1), complexity):
        assert np.median(np.abs(found.quality / wrong - 1)) > 5 * TOLERANCE
    assert found.embeddings.shape == (14, 32)
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, rtol=1e-5)


def test_its_own_prompts_are_the_default(scorer: instsel.Scorer, truth: OneByOne) -> None:
    row = {"instruction": "the thing", "input": "in a", "output": "king"}
    found = instsel.deita(scorer, [row, {**row, "output": "sing a thing"}])
    assert found.complexity[0] == pytest.approx(truth.expected_rating(RATING_PROMPT, row), rel=TOLERANCE)
    assert found.quality[0] == pytest.approx(truth.expected_rating(QUALITY_PROMPT, row), rel=TOLERANCE)
    assert found.complexity[0] == pytest.approx(found.complexity[1], rel=1e-5), "the answer is not in its prompt"
    assert abs(found.quality[0] / found.quality[1] - 1) > 5 * TOLERANCE, "but in this one"


def test_each_rating_may_have_a_model_of_its_own(scorer: instsel.Scorer, tmp_path: Path) -> None:
    make_tiny_model(tmp_path, seed=4)
    other = instsel.Scorer(str(tmp_path), device="cpu", dtype="float32")
    rows = example_rows(5)
    own, theirs = (instsel.deita(one, rows, **SHORT) for one in (scorer, other))
    assert np.abs(own.quality - theirs.quality).min() > 1e-3
    both = instsel.deita(scorer, rows, quality_scorer=other, **SHORT)
    np.testing.assert_allclose(both.complexity, own.complexity, rtol=1e-5)
    np.testing.assert_allclose(both.quality, theirs.quality, rtol=1e-5)
    both = instsel.deita(scorer, rows, complexity_scorer=other, embedder=np.eye(5), **SHORT)
    np.testing.assert_allclose(both.complexity, theirs.complexity, rtol=1e-5)
    np.testing.assert_allclose(both.quality, own.quality, rtol=1e-5)
    assert both.embeddings.tolist() == np.eye(5).tolist()


def test_every_row_has_a_status(scorer: instsel.Scorer) -> None:
    rows: list[dict[str, Any]] = [
        *example_rows(2),
        {"instruction": "say a thing", "input": "", "output": ""},
        {"instruction": "the " * 400, "input": "", "output": "a thing"},
        {"instruction": "a thing", "input": "", "output": "the " * 400},
    ]
    found = instsel.deita(scorer, rows, embedder=np.eye(5), **SHORT)
    assert found.status.tolist() == ["ok", "ok", "empty_target", "too_long", "too_long"]
    for values in (found.score, found.complexity, found.quality):
        assert np.isfinite(values).tolist() == (found.status == "ok").tolist()


@pytest.mark.parametrize("method", [instsel.deita, instsel.selectit])
@pytest.mark.parametrize(
    "given", [{"score_turns": "all"}, {"reasoning": "drop"}, {"chat_template_kwargs": {"enable_thinking": False}}]
)
def test_what_only_a_template_reads_is_refused(method: Any, given: dict[str, Any], scorer: instsel.Scorer) -> None:
    (name,) = given
    with pytest.raises(ValueError, match=f"{name}: expected .*, as this method shows"):
        method(scorer, example_rows(1), **given)


def test_what_is_refused(scorer: instsel.Scorer) -> None:
    rows = example_rows(1)
    with pytest.raises(ValueError, match=r'quality_prompt must contain "\{response\}", got \'\{request\}\''):
        instsel.deita(scorer, rows, quality_prompt="{request}")
    with pytest.raises(ValueError, match=r'complexity_prompt must contain "\{request\}", got 5'):
        instsel.deita(scorer, rows, complexity_prompt=5)
    with pytest.raises(ValueError, match="embedder"):
        instsel.deita(scorer, rows, embedder=np.eye(3))


def test_the_command_and_select_do_as_the_library(
    scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    arguments = ["deita", str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "16"]
    arguments += ["--complexity-prompt", SHORT["complexity_prompt"], "--quality-prompt", SHORT["quality_prompt"]]
    directions = np.random.default_rng(0).normal(size=(40, 3))  # many pairs of rows are close to each other
    np.save(tmp_path / "directions.npy", directions)
    arguments += ["--embedder", str(tmp_path / "directions.npy")]
    interrupted_then_continued([*arguments, "--output", str(tmp_path / "run")], after=4)
    table = pq.read_table(tmp_path / "run/scores.parquet")
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    want = instsel.deita(scorer, records, embedder=directions, **SHORT)
    assert table.column("status").to_pylist() == want.status.tolist()
    assert {"ok", "empty_target", "too_long"} == set(want.status)
    for name in ("score", "complexity", "quality"):
        got = np.array(table.column(name).to_pylist(), dtype=float)
        np.testing.assert_allclose(got, getattr(want, name), rtol=TOLERANCE, equal_nan=True)
    assert main(["select", str(tmp_path / "run"), "--budget", "12", "--output", str(tmp_path / "best")]) == 0
    kept: list[int] = []  # the greedy rule, row by row
    for row in sorted(np.flatnonzero(want.status == "ok"), key=lambda row: -want.score[row]):
        if len(kept) < 12 and all(want.embeddings[row] @ want.embeddings[other] < 0.9 for other in kept):
            kept.append(int(row))
    picked = pq.read_table(tmp_path / "best/selected.parquet").column("row").to_pylist()
    assert picked == kept
    best = np.argsort(-np.nan_to_num(want.score))[: len(kept)]
    assert picked != best.tolist(), "the control: without the rule other rows would be chosen"
