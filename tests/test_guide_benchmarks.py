"""Figures that guide a user: what a dry run says against its run, and what likelihood takes of several answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

FOLDER = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests")


def test_a_plan_and_its_run_end_in_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dry_run
    import tables

    load_models_once(monkeypatch)
    pool = write_alpaca(tmp_path / "rows_20.jsonl", 20)
    words = ["dry_run", "--model", tiny_model_folder(), "--pools", str(pool), "--rows", "8", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    for _ in range(2):
        dry_run.main()
    assert "ifd of 8 rows of rows_20, run over plan: clock" in capsys.readouterr().out
    (result,) = tables.load(tmp_path)["dry_run"]
    (row,) = result["rows"]  # the second in place of the first
    assert row["planned_tokens"] == row["run_tokens"] > 0, "all that ifd scores is known beforehand"
    for what in ("clock", "processor"):
        low, high = row[f"planned_{what}"]
        assert 0 < low < high and dry_run.ratio(row, what) == row[f"run_{what}"] / ((low + high) / 2)
    assert f"| 8 of rows | {row['run_tokens']:,.0f} (1.00) |" in dry_run.table([result])


def test_winners_are_those_of_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tables
    import winners

    loop = {"source": "a", "response": "the thing " * 12, "correct": False}
    right = {"source": "b", "response": "a king answering in theory", "correct": True}
    known = {"source": winners.REFERENCE, "response": "sing", "correct": True}
    lines = [{"instruction": f"say {i}", "candidates": [known, loop, right]} for i in range(6)]
    lines.append({"instruction": "say", "candidates": [loop, known]})  # no right one but the reference
    path = tmp_path / "some_7.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    groups = winners.read_groups(path, 40)
    assert [len(group["candidates"]) for group in groups] == [2] * 6 and len(winners.read_groups(path, 4)) == 4
    words = ["winners", "--model", tiny_model_folder(), "--groups", str(path), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    winners.main()
    (result,) = tables.load(tmp_path)["winners"]
    published, other = result["ways"].values()
    assert published["correct_by_chance"] == other["correct_by_chance"] == published["by_chance"] == 0.5
    assert published["repeated"] == pytest.approx(1 - published["correct"])
    assert other["repeated"] == 0 and other["correct"] == 1
    assert "| some |" in capsys.readouterr().out


def test_the_pages_have_the_results_that_there_are() -> None:
    import dry_run
    import tables
    import winners

    found = tables.load()
    for page, name, content in (
        ("what_to_run.md", "dry run", dry_run.table(found["dry_run"])),
        ("methods/grape.md", "winners", winners.table(found["winners"])),
    ):
        text = (FOLDER.parent / "docs" / page).read_text()
        assert tables.insert(text, content, name) == text, page
