"""Commands that only read a run: any number at once, beside a writer, in a folder of somebody else; nothing changes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import fill, write_selection
from squares import run_squares

from instsel.cli import main
from instsel.runs import RunFolder
from instsel.runs.lock import RunLock
from instsel.runs.shards import ShardedStage

ROWS = 30
SETTINGS = {"version": "1", "method": "square", "parameters": {}, "input_digest": "pool", "limit": None}


def finished(folder: Path) -> Path:
    """A run as a command makes it, with embeddings in its shards: locked, computed, merged and closed."""
    from instsel.runner.run_result import finish

    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(ROWS, 4)).astype(np.float32)
    about = {"input": "pool.jsonl", "model": "some/model", "environment": {}, "compared": ["format", *SETTINGS]}
    run = RunFolder(folder, SETTINGS, about)
    rows = run.rows(lambda: [[{"instruction": f"ask {i}", "output": f"answer {i}"} for i in range(ROWS)]])
    status = np.full(ROWS, "ok")
    stages = [ShardedStage("embeddings", ROWS), ShardedStage("square", ROWS)]
    fill(run, stages[0], lambda part: ({"embedding": embeddings[part.start : part.stop]}, {}), 8)
    fill(run, stages[1], lambda part: ({"score": np.array(part, float), "status": status[: len(part)]}, {}), 8)
    run.save(stages=[[one.name, one.rows] for one in stages], stages_complete=True)
    finish(run, rows, stages[-1], "scores.parquet", {}, stages, "score")
    run.close()
    return folder


def state(folder: Path) -> dict[str, Any]:
    """Every name with its bytes and times, folders included."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


def readers(run: Path, out: Path) -> list[list[str]]:
    """Each command that reads a run, writing elsewhere."""
    chosen = ["--budget", "5", "--quiet"]
    return [
        ["select", str(run), *chosen, "--output", str(out / "chosen")],
        [
            "select",
            str(run),
            *chosen,
            "--coverage",
            "proportional",
            "--num-clusters",
            "3",
            "--output",
            str(out / "part"),
        ],
        ["merge", str(run), "--output", str(out / "merged.parquet"), "--quiet"],
        ["merge", str(run), "--output", str(out / "merged.jsonl"), "--format", "jsonl", "--quiet"],
        ["report", str(run), "--output", str(out / "page.html"), "--quiet"],
        ["export", str(run), "--to", "trl", "--output", str(out / "export"), "--quiet"],
        ["status", str(run)],
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_reader_changes_nothing_and_waits_for_nobody(tmp_path: Path, number: int) -> None:
    run = finished(tmp_path / "run")
    lock = RunLock(run)
    lock.acquire()
    try:
        before = state(run)
        assert main(readers(run, tmp_path)[number]) == 0
        assert state(run) == before
    finally:
        lock.release()


def test_what_a_reader_makes_is_right(tmp_path: Path) -> None:
    """The control: the files are there, and a merged file is the run's own result."""
    run = finished(tmp_path / "run")
    for command in readers(run, tmp_path):
        assert main(command) == 0
    assert (tmp_path / "merged.parquet").read_bytes() == (run / "scores.parquet").read_bytes()
    found = json.loads((tmp_path / "chosen/manifest.json").read_text())
    assert found["parameters"]["embeddings"] == "the run's own embeddings" and found["counts"]["selected"] == 5


def test_a_damaged_shard_is_said_and_stays_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path / "run")
    for name in ("square", "embeddings"):
        next((run / "shards").glob(f"{name}-00008-*")).write_bytes(b"PAR1")
    before = state(run)
    for command in readers(run, tmp_path)[:4]:
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "damaged or gone" in said
    assert state(run) == before


def test_a_damaged_copy_of_the_rows_is_said_and_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text of another row would stand beside the scores."""
    run = finished(tmp_path / "run")
    (kept,) = run.glob("rows-*.arrow")
    content = kept.read_bytes()
    assert content.count(b"ask 3") == 1
    kept.write_bytes(content.replace(b"ask 3", b"ask 8"))
    before = state(run)
    assert main(["merge", str(run), "--output", str(tmp_path / "merged.parquet"), "--quiet"]) == 2
    assert "the rows kept in" in capsys.readouterr().err
    assert state(run) == before and not (tmp_path / "merged.parquet").exists()


def _select(arguments: list[str]) -> None:
    raise SystemExit(main(arguments))


@pytest.mark.long
def test_four_at_once(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    fork = multiprocessing.get_context("fork")
    children = [
        fork.Process(target=_select, args=([*readers(run, tmp_path)[0][:-1], str(tmp_path / f"chosen{i}")],))
        for i in range(4)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0, 0]


def test_who_writes_into_the_run_still_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The negative control: a merge into the run's own folder is a writer."""
    run = finished(tmp_path / "run")
    lock = RunLock(run)
    lock.acquire()
    assert main(["merge", str(run), "--quiet"]) == 1
    assert "is being written by" in capsys.readouterr().err
    lock.release()
    assert main(["merge", str(run), "--format", "jsonl", "--quiet"]) == 0
    assert len((run / "scores.jsonl").read_text().splitlines()) == ROWS


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda run: run / "manifest.json", "ends with .parquet"),
        (lambda run: next((run / "shards").glob("square-00000-*")), "is a file of the run"),
        (lambda run: run / "shards", "ends with .parquet"),
    ],
)
def test_a_merge_writes_over_no_file_of_the_run(
    tmp_path: Path, target: Callable[[Path], Path], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path / "run")
    before = state(run)
    assert main(["merge", str(run), "--output", str(target(run)), "--overwrite", "--quiet"]) == 2
    assert said in capsys.readouterr().err and state(run) == before


def test_a_merge_does_not_write_over_what_the_run_was_made_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path / "run")
    (tmp_path / "pool.parquet").write_bytes(b"years of work")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["arguments"] = {"input": [str(tmp_path / "pool.parquet")], "output": str(run)}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["merge", str(run), "--output", str(tmp_path / "pool.parquet"), "--overwrite", "--quiet"]) == 2
    assert "is what the run was made from" in capsys.readouterr().err
    assert (tmp_path / "pool.parquet").read_bytes() == b"years of work"


@pytest.mark.parametrize("name", ["report.html", "scores.parquet", "manifest.json"])
def test_a_report_writes_over_pages_of_its_own_only(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path / "run")
    if name == "report.html":
        (run / name).write_text("<!doctype html><p>my own page")
    before = state(run)
    assert main(["report", str(run), "--output", str(run / name), "--quiet"]) == 2
    assert "is no page that instsel report wrote" in capsys.readouterr().err and state(run) == before
    (run / "report.html").unlink(missing_ok=True)
    assert main(["report", str(run), "--quiet"]) == main(["report", str(run), "--quiet"]) == 0, "its own is made anew"


def test_readers_find_a_selection_whose_pool_is_elsewhere(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    chosen = write_selection(tmp_path / "chosen", run, [3, 1])
    before = state(run), state(chosen)
    assert main(["report", str(run), str(chosen), "--output", str(tmp_path / "page.html"), "--quiet"]) == 0
    assert (state(run), state(chosen)) == before


def test_a_living_process_keeps_its_temporary_file(tmp_path: Path) -> None:
    """What a report is about to name is not removed by a run that begins; what a dead process left is, and no more."""
    import subprocess

    child = subprocess.Popen(["sleep", "60"])
    dead = subprocess.Popen(["true"])
    dead.wait()
    try:
        run_squares(tmp_path / "run")
        for name in (child.pid, dead.pid, "thesis"):
            (tmp_path / f"run/.unfinished-{name}").write_text("")
        run_squares(tmp_path / "run")
        left = {path.name for path in (tmp_path / "run").glob(".unfinished-*")}
        assert left == {f".unfinished-{child.pid}", ".unfinished-thesis"}
    finally:
        child.kill()
        child.wait()
