"""NUGGETS of a small real model against float64 forwards, one sequence at a time; what it leaves out and refuses."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from interrupted_run import interrupted_then_continued
from one_by_one import OneByOne, plain
from tiny_model import CONTEXT, load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.nuggets import nuggets
from instsel.neighbors.clusters import cluster_rows, nearest_to_centres
from instsel.records import Example

TOLERANCE = 1e-4
ANCHORS = [
    {"instruction": "sing the thing", "input": "", "output": "the king sings"},
    {"instruction": "answer", "input": "in the theory", "output": "a thing"},
    {"instruction": "say it", "input": "", "output": "the answer in a theory of a king"},
]


def by_loop(truth: OneByOne, examples: list[dict[str, str]], anchors: list[dict[str, str]]) -> tuple[Any, Any]:
    """Mean log-probabilities `[m]` and `[n, m]`, a forward for each pair; NaN where the anchor is the example."""
    zero_shot = [truth.token_logprobs(plain(b), b["output"]).mean() for b in anchors]
    one_shot = [
        [np.nan if a == b else truth.token_logprobs(plain(b, a), b["output"]).mean() for b in anchors] for a in examples
    ]
    return np.array(zero_shot), np.array(one_shot)


def score_by_loop(zero_shot: np.ndarray, one_shot: np.ndarray, measure: str) -> list[float]:
    out = []
    for row in one_shot:
        pairs = [(before, after) for before, after in zip(zero_shot, row, strict=True) if not np.isnan(before + after)]
        terms = [
            {"wins": float(after > before), "gain": after - before, "ratio": before / after}[measure]
            for before, after in pairs
        ]
        out.append(float(np.mean(terms)) if terms else float("nan"))
    return out


@pytest.mark.parametrize("measure", ["wins", "gain", "ratio"])
def test_as_one_forward_a_pair(scorer: instsel.Scorer, truth: OneByOne, measure: str) -> None:
    examples = example_rows(9)
    anchors = [*ANCHORS, examples[4]]
    zero_shot, one_shot = by_loop(truth, examples, anchors)
    found = nuggets(scorer, examples, anchors, measure=measure)
    assert found.status.tolist() == ["ok"] * 9
    np.testing.assert_allclose(found.zero_shot, zero_shot, rtol=TOLERANCE)
    np.testing.assert_allclose(found.one_shot, one_shot, rtol=TOLERANCE)
    assert found.one_shot.dtype == np.float32
    assert np.isnan(found.one_shot[4, 3]), "the anchor that is the example itself has no number"
    assert found.num_anchors.tolist() == [4, 4, 4, 4, 3, 4, 4, 4, 4]
    assert found.is_anchor.tolist() == [row == 4 for row in range(9)]
    want = score_by_loop(zero_shot, one_shot, measure)
    np.testing.assert_allclose(found.score, want, atol=TOLERANCE)
    assert len(set(found.score.round(3))) > 2
    # The controls: counted with the example itself, or with another's demonstration, scores are others.
    with_itself = one_shot.copy()
    with_itself[4, 3] = truth.token_logprobs(plain(examples[4], examples[4]), examples[4]["output"]).mean()
    assert abs(score_by_loop(zero_shot, with_itself, measure)[4] - found.score[4]) > 100 * TOLERANCE
    assert np.abs(np.array(score_by_loop(zero_shot, one_shot[::-1], measure)) - found.score).max() > 100 * TOLERANCE


def test_pairs_that_fail_are_missing_and_not_zero(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(6)
    examples[1]["output"] = " "
    examples[2]["output"] = "the " * (CONTEXT - truth.length(plain(examples[2])) - 1)  # fits, but before no anchor
    long = {"instruction": "say", "input": "", "output": "a " * 246}  # fits, and after no demonstration
    longer = {"instruction": "say", "input": "", "output": "the " * 400}  # fits nowhere
    blank = {"instruction": "say", "input": "", "output": ""}
    found = nuggets(scorer, examples, [blank, longer, long, *ANCHORS], measure="gain")
    assert found.status.tolist() == ["ok", "empty_target", "too_long", "ok", "ok", "ok"]
    assert found.num_anchors.tolist() == [3, 0, 0, 3, 3, 3]
    assert np.isnan(found.zero_shot).tolist() == [True, True, False, False, False, False]
    present = np.isfinite(found.one_shot)
    assert present.tolist() == [[False] * 3 + [status == "ok"] * 3 for status in found.status]
    alone = nuggets(scorer, examples, ANCHORS, measure="gain")
    assert found.status[2] == "too_long" and alone.status.tolist() == found.status.tolist()
    np.testing.assert_allclose(found.score, alone.score, rtol=1e-4)
    # The control: the missing pairs as zeros would be another mean.
    assert np.nanmin(np.abs(found.score / 2 - alone.score)) > 1e-3
    only_itself = nuggets(scorer, examples[:1], examples[:1])
    assert (only_itself.status.tolist(), only_itself.num_anchors.tolist()) == (["empty_target"], [0])
    assert nuggets(scorer, examples[:1], [longer]).status.tolist() == ["too_long"]


def test_anchors_are_the_rows_nearest_the_centres_of_clusters(scorer: instsel.Scorer) -> None:
    examples = example_rows(40)
    examples[30] = dict(examples[7])
    vectors = np.random.default_rng(2).normal(size=(40, 6))
    vectors[7] *= 0  # no direction, so no centre's
    found = nuggets(scorer, examples, num_anchors=5, embedder=vectors, measure="gain", seed=3)
    want = nearest_to_centres(vectors, cluster_rows(vectors, 5, seed=3))
    assert found.anchor_rows is not None
    assert found.anchor_rows.tolist() == want.tolist()
    given = nuggets(scorer, examples, [examples[row] for row in want], measure="gain")
    assert given.anchor_rows is None
    np.testing.assert_allclose(given.score, found.score, atol=1e-5)
    assert found.is_anchor.sum() == 5 and found.num_anchors[want].tolist() == [4] * 5
    assert nuggets(scorer, examples, num_anchors=3).anchor_rows is not None, "by the scoring model's own embeddings"


def test_ways_to_give_anchors(scorer: instsel.Scorer) -> None:
    examples = example_rows(5)
    want = nuggets(scorer, examples, ANCHORS).one_shot
    records = [Example(row["instruction"], row["input"], row["output"]) for row in ANCHORS]
    turns = [{"prompt": plain(row)[:-1], "completion": row["output"]} for row in ANCHORS]
    for anchors in (records, iter(ANCHORS), turns):
        np.testing.assert_allclose(nuggets(scorer, examples=examples, anchors=anchors).one_shot, want, atol=1e-5)
    assert list(inspect.signature(nuggets).parameters)[:3] == ["scorer", "examples", "anchors"]
    with pytest.raises(TypeError, match=r"nuggets\(\) got anchors twice"):
        nuggets(scorer, examples, ANCHORS, anchors=ANCHORS)
    with pytest.raises(TypeError, match=r"\(scorer, examples, anchors, .*one to 2 arguments after scorer, got 3"):
        nuggets(scorer, examples, ANCHORS, 5)  # type: ignore[misc]


def test_each_demonstration_is_forwarded_once(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = example_rows(3)
    anchors = example_rows(40)[3:]
    found = nuggets(scorer, examples, anchors)
    shown = sum(truth.length(plain(row) + row["output"]) for row in examples)
    tasks = sum(truth.length(plain(row) + row["output"]) for row in anchors)
    # The anchors by themselves, and behind each demonstration; a token may merge across the place where they meet.
    assert found.stats.tokens_forwarded <= shown + (len(examples) + 1) * tasks
    assert found.stats.tokens_unshared > 1.5 * found.stats.tokens_forwarded


@pytest.mark.parametrize(
    ("anchors", "options", "message"),
    [
        ([], {}, "anchors must hold at least one example, got none"),
        ([{"question": "a"}], {}, "anchors: .*question"),
        ("rows.jsonl", {}, "anchors: rows must hold rows, got a str"),
        (None, {}, "num_anchors must be at most the number of rows, 3, got 100"),
        (None, {"num_anchors": 3, "embedder": np.ones((3, 2))}, "the number of distinct embeddings, 1, got 3"),
        (None, {"num_anchors": 0}, "num_anchors must be a whole number of at least 1, got 0"),
        (ANCHORS, {"measure": "mean"}, "measure must be one of wins, gain, ratio, got 'mean'"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, anchors: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        nuggets(scorer, example_rows(3), anchors, **options)


def command(rows: Path, output: Path, *more: object) -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
    return ["nuggets", str(rows), *model, "--output", str(output), *map(str, more)]


def numbers(path: Path, name: str) -> np.ndarray:
    return np.array([np.nan if x is None else x for x in pq.read_table(path).column(name).to_pylist()], float)


@pytest.mark.long
def test_the_command_writes_what_the_function_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu")
    rows = write_alpaca(tmp_path / "rows.jsonl", 50)
    held = [json.loads(line) for line in rows.read_text().splitlines()]
    anchors = tmp_path / "anchors.jsonl"
    anchors.write_text("".join(json.dumps(row) + "\n" for row in [*ANCHORS, held[6]]))
    words = command(rows, tmp_path / "run", "--anchors", anchors, "--measure", "gain", "--shard-rows", 16)
    interrupted_then_continued(words)
    want = nuggets(scorer, held, [*ANCHORS, held[6]], measure="gain")
    result = tmp_path / "run/scores.parquet"
    np.testing.assert_allclose(numbers(result, "score"), want.score, atol=2e-5)
    table = pq.read_table(result)
    assert table.column("status").to_pylist() == want.status.tolist()
    assert set(want.status) == {"ok", "empty_target", "too_long"} or set(want.status) == {"ok", "empty_target"}
    assert table.column("num_anchors").to_pylist() == want.num_anchors.tolist()
    assert "one_shot" not in table.column_names, "it stays in the shards"
    finding = json.loads((tmp_path / "run/manifest.json").read_text())["findings"]["anchors"]
    assert (finding["anchors"], finding["rows_that_are_anchors"]) == (4, 1)
    chosen = nuggets(scorer, held, num_anchors=3)
    assert main(command(rows, tmp_path / "chosen", "--num-anchors", 3)) == 0
    np.testing.assert_allclose(numbers(tmp_path / "chosen/scores.parquet", "score"), chosen.score, atol=2e-5)
    anchors.write_text("".join(json.dumps(row) + "\n" for row in ANCHORS))
    assert main(words) == 2
    assert "anchors" in capsys.readouterr().err, "other anchors are another run"


def test_anchor_files_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 5)
    empty, other = tmp_path / "empty.jsonl", tmp_path / "other.jsonl"
    empty.write_text("")
    other.write_text('{"instruction": "a", "candidates": ["b", "c"]}\n')
    for path, message in (
        (tmp_path / "none.jsonl", "does not exist"),
        (empty, "is empty"),
        (other, "'candidates'"),
    ):
        assert main(command(rows, tmp_path / "run", "--anchors", path)) == 2
        said = capsys.readouterr().err
        assert said.startswith("instsel: error: --anchors") and message in said and said.count("\n") == 1, said
    assert main(command(rows, tmp_path / "run")) == 2
    assert "num_anchors must be at most the number of rows, 5, got 100" in capsys.readouterr().err


@pytest.mark.long
def test_the_plan_counts_what_the_run_forwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    rows, anchors = write_alpaca(tmp_path / "rows.jsonl", 40), write_alpaca(tmp_path / "anchors.jsonl", 12, first=100)
    arguments = command(rows, tmp_path / "run", "--anchors", anchors)
    assert main([*arguments, "--dry-run"]) == 0
    planned = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert main(arguments) == 0
    stats = json.loads((tmp_path / "run/manifest.json").read_text())["stats"]
    forwarded = int(planned["tree"].replace(",", ""))
    assert stats["tokens_forwarded"] <= forwarded <= 1.1 * stats["tokens_forwarded"], (
        "but for anchors without an answer"
    )
