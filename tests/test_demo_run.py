"""The demo from end to end, small in the ordinary suite and whole in the slow one."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import instsel
from instsel.demo.findings import read_findings
from instsel.demo.lessons import BUDGETS, PROCEDURES, learn, selections
from instsel.demo.run import run_demo

SIZE = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo") / "out"

    def refuse(*arguments: object) -> None:
        raise AssertionError("the demo opened a connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        assert run_demo(output, quiet=True, seed=7, size=SIZE) == 0
    return output


@pytest.mark.long
def test_it_writes_the_data_the_run_folders_and_the_page(folder: Path) -> None:
    for name in ("ifd", "wici", "grape"):
        manifest = json.loads((folder / name / "manifest.json").read_text())
        assert manifest["state"] == "finished"
    scores = pq.read_table(folder / "wici" / "scores.parquet").to_pylist()
    pool = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    assert [row["output"] for row in scores] == [row["output"] for row in pool] and len(pool) == SIZE
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    ET.parse(folder / "picture.svg")


@pytest.mark.long
def test_what_it_reads_back_is_what_the_methods_give(folder: Path) -> None:
    """The command line and the Python interface on the same pool give the same scores."""
    from instsel.demo.run import MODEL_FOLDER
    from instsel.methods.wici import wici

    pool = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    found = read_findings(folder, 7, learn(MODEL_FOLDER, folder, pool, 7))
    scorer = instsel.Scorer(str(MODEL_FOLDER), device="cpu")
    for rule, name in (("gain", "gain"), ("paper", "wICI")):
        np.testing.assert_array_equal(found.scores[name], wici(scorer, pool, rule=rule).score)
    assert len(found.selected) == SIZE // 10 == len(set(found.selected.tolist()))
    assert found.scores["gain"][found.selected].mean() > np.nanmean(found.scores["gain"])


@pytest.mark.long
def test_the_model_learns_from_what_was_selected_and_every_subset_is_judged_alike(folder: Path) -> None:
    lessons = learn(Path("nowhere"), folder, [], 7)  # read back, not tuned again
    assert len(lessons.tuned) == len(BUDGETS) * 3
    for budget in BUDGETS:
        names = selections(folder, SIZE, budget, 7)
        assert {name: len(rows) for name, rows in names.items()} == dict.fromkeys(names, round(budget * SIZE))
    chosen = lessons.of(PROCEDURES["filter"], BUDGETS[-1])
    assert chosen.loss < lessons.untuned.loss and 0 <= chosen.exact <= 1 and 0 < chosen.clean <= 1


@pytest.mark.long
def test_a_second_run_continues_and_another_seed_is_refused(folder: Path) -> None:
    before = (folder / "wici" / "scores.parquet").read_bytes()
    assert run_demo(folder, quiet=True, seed=7, size=SIZE) == 0
    assert (folder / "wici" / "scores.parquet").read_bytes() == before
    with pytest.raises(ValueError, match="another seed"):
        run_demo(folder, quiet=True, seed=8, size=SIZE)


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no demo"):
        run_demo(tmp_path, quiet=True, seed=0)
    with pytest.raises(ValueError, match="must be a folder"):
        run_demo(tmp_path / "thesis.txt", quiet=True, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_importing_the_demo_imports_no_model_library() -> None:
    code = "import sys, instsel.demo; print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_whole_demo_takes_a_minute_and_two_gigabytes(tmp_path: Path) -> None:
    started = time.perf_counter()
    command = [sys.executable, "-m", "instsel.cli", "demo", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started <= 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 1024**2  # kilobytes
    assert "area under the ROC curve" in done.stdout and "sharing factor" in done.stdout
