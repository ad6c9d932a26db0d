"""RICo against float64 forwards of one sequence at a time, with the same noise."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from interrupted_run import interrupted_then_continued
from one_by_one import OneByOne, plain
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.rico import contributions, noise_for

TOLERANCE = 1e-4
TASKS = [
    {"instruction": "name the king", "input": "", "output": "a thing"},
    {"instruction": "sing", "input": "in a", "output": "the theory"},
    {"instruction": "answer in a word", "input": "", "output": "the king sings"},
]


def influences(truth: OneByOne, rows: list[dict[str, str]], tasks: list[dict[str, str]]) -> np.ndarray:
    out = np.empty((len(rows), len(tasks)))
    for i, row in enumerate(rows):
        shown = plain(row) + row["output"]
        noise = noise_for(shown, 0, i)
        for j, task in enumerate(tasks):
            after = "\n\n\n" + plain(task)
            with_row, with_noise = (truth.perplexity(text + after, task["output"]) for text in (shown, noise))
            out[i, j] = (with_noise - with_row) / (truth.perplexity(plain(task), task["output"]) + 1e-6)
    return out


def test_influence_is_over_noise(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = example_rows(8)
    found = instsel.rico(scorer, rows, assessment=TASKS)
    want = influences(truth, rows, TASKS)
    np.testing.assert_allclose(found.influence, want, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found.score, want.mean(1), rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found.variance, want.var(1, ddof=1), rtol=10 * TOLERANCE)
    assert found.consistency.tolist() == (want > 0).mean(1).tolist()
    assert found.status.tolist() == ["ok"] * 8
    assert np.median(np.abs(np.roll(want, 1, 0) - found.influence)) > 100 * TOLERANCE
    seeded = instsel.rico(scorer, rows, assessment=TASKS, seed=1)
    assert np.median(np.abs(seeded.influence - found.influence)) > 100 * TOLERANCE, "the noise counts"


def test_what_an_example_does_to_all_tasks() -> None:
    found = contributions(np.array([[0.02, -0.01, 0.6], [1.0, 1.0, np.nan], [-2.0, np.nan, np.nan], [np.nan] * 3]))
    mean = 0.61 / 3
    np.testing.assert_allclose(found["score"], [mean, 1.0, -2.0, np.nan])
    np.testing.assert_allclose(found["significance"], [2 / (1 + np.exp(-50 * mean)) - 1, 1.0, -1.0, np.nan])
    np.testing.assert_allclose(found["consistency"], [2 / 3, 1.0, 0.0, np.nan])
    np.testing.assert_allclose(found["coverage"], [1 / 3, 1.0, 0.0, np.nan])
    np.testing.assert_allclose(found["variance"], [np.var([0.02, -0.01, 0.6], ddof=1), 0.0, np.nan, np.nan])


def test_noise_has_the_length_of_the_text_and_a_row_of_its_own() -> None:
    assert len(noise_for("x" * 300, 0, 0)) == 300
    assert set(noise_for("x" * 5000, 0, 0)) == set(string.ascii_letters + string.punctuation + string.digits + " ")
    assert noise_for("abc" * 9, 0, 3) == noise_for("xyz" * 9, 0, 3)
    assert len({noise_for("x" * 20, seed, row) for seed in (0, 1) for row in (0, 1)}) == 4


def test_statuses_and_what_is_left_out(scorer: instsel.Scorer) -> None:
    rows: list[dict[str, Any]] = [
        *example_rows(1),
        TASKS[1],
        {"instruction": "say a thing", "input": "", "output": " "},
        {"instruction": "say a thing", "input": "", "output": "the " * 400},
    ]
    tasks = [*TASKS, {"instruction": "say", "input": "", "output": ""}]
    found = instsel.rico(scorer, rows, assessment=tasks)
    assert found.status.tolist() == ["ok", "ok", "empty_target", "too_long"]
    assert np.isfinite(found.influence).tolist() == [
        [True, True, True, False],
        [True, False, True, False],
        [False] * 4,
        [False] * 4,
    ]
    assert np.isfinite(found.score).tolist() == [True, True, False, False]
    assert instsel.rico(scorer, [TASKS[0]], assessment=TASKS[:1]).status.tolist() == ["empty_target"], "only itself"


def test_what_is_refused(scorer: instsel.Scorer, tmp_path: Path) -> None:
    rows = example_rows(1)
    for wrong in (None, []):
        with pytest.raises(ValueError, match="assessment must be at least one example, got"):
            instsel.rico(scorer, rows, assessment=wrong)
    for kind in (7, "tasks.jsonl"):
        with pytest.raises(TypeError, match=r"assessment: rows must"):
            instsel.rico(scorer, rows, assessment=kind)
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}")
    for template in ("chat", tmp_path / "own.jinja", str(tmp_path / "own.jinja")):
        with pytest.raises(ValueError, match=r'template must not be "chat" or a \.jinja file'):
            instsel.rico(scorer, rows, assessment=TASKS, template=template)
    asked = instsel.rico(scorer, rows, assessment=TASKS, template="Q: {instruction} {input}\nA: ")
    assert asked.status.tolist() == ["ok"], "the control: a text of one's own is text"
    with pytest.raises(ValueError, match="columns"):
        instsel.rico(scorer, rows, assessment=[{"unknown": 1}])


def test_the_command_gives_the_same_numbers_also_when_interrupted(
    scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    arguments = ["rico", str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "8"]
    command = [*arguments, "--assessment", str(tmp_path / "tasks.jsonl"), "--output", str(tmp_path / "run")]
    interrupted_then_continued(command, after=3)
    table = pq.read_table(tmp_path / "run/scores.parquet")
    want = instsel.rico(scorer, [json.loads(line) for line in rows.read_text().splitlines()], assessment=TASKS)
    assert table.column("status").to_pylist() == want.status.tolist()
    assert {"ok", "empty_target", "too_long"} == set(want.status)
    for name in ("score", "significance", "variance"):
        got = np.array(table.column(name).to_pylist(), dtype=float)
        np.testing.assert_allclose(got, getattr(want, name), rtol=1e-3, atol=TOLERANCE, equal_nan=True)
    assert main([*command[:-1], str(tmp_path / "plan"), "--dry-run"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--output", str(tmp_path / "none")]) == 2
    assert "assessment must be at least one example" in capsys.readouterr().err
