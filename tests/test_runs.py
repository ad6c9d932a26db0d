"""Run folders: their settings, manifest and rows, and what is said where they cannot be written."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from run_folders import fill
from squares import SETTINGS, Squares, open_folder, run_squares, shard_paths

from instsel.runs import RunError, durable_files
from instsel.runs import folder as run_folder
from instsel.runs import lock as run_lock
from instsel.runs.durable_files import durable_file
from instsel.runs.shards import ShardedStage


def test_other_settings_are_refused_by_name_and_overwrite_starts_again(tmp_path: Path) -> None:
    run_squares(tmp_path / "run")
    other = {"method": "square", "seed": 3, "parameters": {"power": 3, "offset": None}}
    with pytest.raises(ValueError, match=r"seed \(0 there, 3 now\); parameters\.power \(2 there, 3 now\)") as refused:
        open_folder(tmp_path / "run", other)
    assert "method" not in str(refused.value) and "offset" not in str(refused.value)
    assert len(shard_paths(tmp_path / "run")) == 3
    _, squares, _ = run_squares(tmp_path / "run", settings=other, overwrite=True)
    assert len(squares.asked) == 3


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"not empty and not a run folder \(it holds thesis\.tex\)"):
            open_folder(tmp_path, overwrite=overwrite)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"thesis.tex": "years of work"}


def test_a_run_that_computed_nothing_leaves_no_trace(tmp_path: Path) -> None:
    open_folder(tmp_path / "run").close()
    assert not (tmp_path / "run").exists()


def test_a_damaged_manifest_is_set_aside_and_whole_shards_are_kept(tmp_path: Path) -> None:
    run_squares(tmp_path / "run")
    (tmp_path / "run/manifest.json").write_text('{"format": 1, "meth')
    _, squares, folder = run_squares(tmp_path / "run")
    assert folder.damaged == ["manifest.json"] and squares.asked == []
    (tmp_path / "run/manifest.json").write_text("[]")
    _, squares, _ = run_squares(tmp_path / "run", settings={**SETTINGS, "seed": 9})
    assert len(squares.asked) == 3, "shards of other settings must not be taken for this run's"


def test_the_input_rows_are_kept_and_a_damaged_copy_is_read_again(tmp_path: Path) -> None:
    reads = []

    def read() -> Any:
        reads.append(1)
        yield [{"id": i} for i in range(300)]

    def open_rows() -> None:
        folder = open_folder(tmp_path / "run")
        try:
            rows = folder.rows(read)
            assert rows.take([299, 0]) == [{"id": 299}, {"id": 0}] and len(rows) == 300
            fill(folder, Squares().stage, Squares().compute)
        finally:
            folder.close()

    open_rows()
    open_rows()
    assert len(reads) == 1
    kept = next((tmp_path / "run").glob("rows-*.arrow"))
    kept.write_bytes(kept.read_bytes()[:-9])
    open_rows()
    assert len(reads) == 2


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, [0]

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(durable_files.os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; what is whole is kept, and the same command"):
        run_squares(tmp_path / "run")
    kept = len(shard_paths(tmp_path / "run"))
    assert kept in (1, 2) and not list((tmp_path / "run").rglob(f"{durable_files.TEMPORARY_PREFIX}*"))
    monkeypatch.undo()
    values, squares, _ = run_squares(tmp_path / "run")
    assert values.tolist() == [float(i * i) for i in range(25)] and len(squares.asked) == 3 - kept


def test_a_limit_on_file_size_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    big = Squares(rows=40_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(RunError, match="File too large"):
            run_squares(tmp_path / "run", big, 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert shard_paths(tmp_path / "run") == []
    values, _, _ = run_squares(tmp_path / "run", big, 20_000)
    assert values[-1] == 39_999.0**2


def test_a_folder_that_cannot_be_written_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output folder .*file/run cannot be written: Not a directory"):
        open_folder(tmp_path / "file/run")

    def denied(*args: Any, **options: Any) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(run_lock.os, "open", denied)  # root may write anywhere: the refusal is injected
    with pytest.raises(ValueError, match="cannot be written: Permission denied"):
        open_folder(tmp_path / "run")


def test_a_folder_removed_under_the_run_is_said(tmp_path: Path) -> None:
    squares = Squares()

    def compute(rows: range) -> Any:
        if rows.start == 10:
            shutil.rmtree(tmp_path / "run")
        return squares.compute(rows)

    folder = open_folder(tmp_path / "run")
    with pytest.raises(RunError, match="was removed while the run wrote to it"):
        fill(folder, ShardedStage("squares", 25), compute)
    folder.close()
    assert not (tmp_path / "run").exists()


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, _, _ = run_squares(tmp_path / "straight")
    moments = iter(range(10_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))
    monkeypatch.setattr(run_folder.time, "gmtime", lambda: time.localtime(next(moments)))
    back, _, _ = run_squares(tmp_path / "back")
    assert back.tolist() == values.tolist()
    run_squares(tmp_path / "back")
    assert json.loads((tmp_path / "back/manifest.json").read_text())["created"].startswith("1970")


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    with durable_file(tmp_path, "name") as file:
        file.write(b"whole")
        file.flush()
        assert not (tmp_path / "name").exists()
    assert (tmp_path / "name").read_bytes() == b"whole"
