"""The report of what the commands themselves leave behind: every method, a selection with clusters, several runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.methods.registry import BUILT_IN
from instsel.report import Report, build_page, read_report

ROWS = 24
FLAGS = {
    "wici": ["--num-neighbors", "4", "--num-probes", "2"],
    "nuggets": ["--num-anchors", "3", "--measure", "gain"],
    "rico": ["--assessment", "TASKS"],
}
COMPANIONS = {"wici": "probe 1", "nuggets": "anchor", "miwv": "neighbour", "rico": "task", "grape": "answer 1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each method over one pool, in folders of their names, and a selection."""
    folder = tmp_path_factory.mktemp("runs")
    pool = write_alpaca(folder / "pool.jsonl", ROWS)
    tasks = write_alpaca(folder / "tasks.jsonl", 2, first=100)
    groups = folder / "groups.jsonl"
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    lines = [{"instruction": row["instruction"], "candidates": ["yes", row["output"], "no"]} for row in rows]
    groups.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch:
        load_models_once(patch)
        for method in BUILT_IN:
            source = groups if method == "grape" else pool
            flags = [str(tasks) if flag == "TASKS" else flag for flag in FLAGS.get(method, [])]
            flags += ["--model", tiny_model_folder(), "--device", "cpu", "--quiet", "--max-failures", "1"]
            assert main([method, str(source), "--output", str(folder / method), *flags]) == 0, method
        flags = ["--anchors", str(tasks), "--model", tiny_model_folder(), "--device", "cpu", "--quiet"]
        assert main(["nuggets", str(pool), "--output", str(folder / "given"), *flags, "--max-failures", "1"]) == 0
    select = ["select", str(folder / "wici"), "--budget", "6", "--coverage", "proportional", "--num-clusters", "3"]
    assert main([*select, "--output", str(folder / "chosen"), "--quiet"]) == 0
    return folder


def shown(report: Report) -> str:
    """The page's text without its tags."""
    return re.sub("<[^>]+>", " ", build_page(report))


@pytest.mark.long
@pytest.mark.parametrize("method", list(BUILT_IN))
def test_every_method(runs: Path, method: str) -> None:
    report = read_report([runs / method])
    manifest = json.loads((runs / method / "manifest.json").read_text())
    assert dict(report.statuses[0][1]) == manifest["counts"] and report.count == ROWS
    assert np.isfinite(report.score.values).sum() == manifest["counts"]["ok"]
    assert report.score.about, "every score is explained"
    text = shown(report)
    assert f"{manifest['stats']['tokens_forwarded']:,.0f}" in text and report.score.axis in text
    best = report.highest[0]
    assert COMPANIONS.get(method, "") in text and bool(report.companions.get(best)) == (method in COMPANIONS)
    assert report.texts[best].prompt.startswith("say the thing") and report.texts[best].answer.strip()


@pytest.mark.long
def test_anchors_have_their_gains(runs: Path) -> None:
    report = read_report([runs / "nuggets"])
    best = report.highest[0]
    gains = [gain for one in report.companions[best] for _, gain in one.figures]
    assert report.score.unit == "nats a token" and gains == sorted(gains, reverse=True)
    assert np.mean(gains) == pytest.approx(report.score.values[best], abs=1e-5)
    assert all(one.row is not None and one.row in report.texts for one in report.companions[best])


@pytest.mark.long
@pytest.mark.parametrize(("method", "kind"), [("rico", "task"), ("given", "anchor")])
def test_rows_of_a_file_have_their_texts_while_it_is_unchanged(runs: Path, method: str, kind: str) -> None:
    file = runs / "tasks.jsonl"
    content = file.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    report = read_report([runs / method])
    companions = report.companions[report.highest[0]]
    assert {one.title for one in companions} == {f"{kind} 1", f"{kind} 2"}
    for one in companions:
        row = rows[int(one.title.split()[1]) - 1]
        assert one.row is None and one.text is not None
        assert one.text.answer == row["output"] and one.text.prompt.startswith(row["instruction"])
    assert rows[0]["instruction"] in shown(report) and rows[1]["instruction"] in shown(report)
    try:
        for changed in (content + content, b"{"):
            file.write_bytes(changed)
            again = read_report([runs / method])
            assert all(one.text is None for one in again.companions[report.highest[0]])
            assert rows[0]["instruction"] not in shown(again)
        file.unlink()
        assert all(one.text is None for one in read_report([runs / method]).companions[report.highest[0]])
    finally:
        file.write_bytes(content)


def test_lengths_come_from_the_run(runs: Path) -> None:
    """wICI's result has no column of lengths; its earlier stage has."""
    found, known = read_report([runs / "wici"]).length, read_report([runs / "perplexity"]).length
    assert found is not None and known is not None
    scored = known.values > 0
    assert (found.values[scored] == known.values[scored]).all() and scored.sum() > ROWS // 2


def test_a_selection_with_its_clusters(runs: Path) -> None:
    report = read_report([runs / "ifd", runs / "chosen", runs / "wici"])
    assert [run.name for run in report.runs] == ["wici", "ifd"] and report.selection is not None
    counted = json.loads((runs / "chosen" / "manifest.json").read_text())["findings"]["clusters"]
    assert {name: list(both) for name, both in report.selection.clusters.items()} == counted and len(counted) == 3
    text = shown(report)
    assert "6 of 24 rows: the highest by wICI within 6 rows; quotas over clusters by their size; 3 clusters" in text
    assert "Difficulty against influence" in text and "all 3 clusters" in text


def test_the_command_and_the_folder_afterwards(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs / "ifd"), str(runs / "wici"), "--max-rows", "9"]) == 0
    said = capsys.readouterr().out
    assert "24 rows, 9 of them in the table" in said and f"written: {runs / 'ifd' / 'report.html'}" in said
    assert main(["status", str(runs / "ifd")]) == 0, "the page does not make the folder another"
    with pytest.MonkeyPatch.context() as patch:
        load_models_once(patch)
        again = ["ifd", str(runs / "pool.jsonl"), "--output", str(runs / "ifd"), "--model", tiny_model_folder()]
        assert main([*again, "--device", "cpu", "--max-failures", "1"]) == 0
        assert "already finished" in capsys.readouterr().out
        assert main([*again, "--device", "cpu", "--max-failures", "1", "--overwrite", "--limit", "9", "--quiet"]) == 0
    assert not (runs / "ifd" / "report.html").exists(), "a page of other numbers does not stay"
