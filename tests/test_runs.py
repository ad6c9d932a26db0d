"""Run folders: what is kept is whole, what is missing is computed, what does not belong is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import fill

from instsel.runs import RunError, RunFolder, durable_files
from instsel.runs import folder as run_folder
from instsel.runs import lock as run_lock
from instsel.runs.durable_files import durable_file
from instsel.runs.lock import FolderInUseError, Holder, RunLock
from instsel.runs.shards import ShardedStage, pack_shard

SETTINGS = {"method": "square", "seed": 0, "parameters": {"power": 2, "offset": None}}


class Squares:
    """A stage whose rows can be checked, and which remembers the slices it was asked for."""

    def __init__(self, rows: int = 25) -> None:
        self.asked: list[range] = []
        self.stage = ShardedStage("squares", rows)

    def compute(self, rows: range) -> Any:
        self.asked.append(rows)
        numbers = np.array(rows, dtype=np.float64) ** 2
        return {"square": numbers, "status": np.where(numbers == 9, "odd", "ok")}, {"tokens_forwarded": len(rows)}


def open_folder(path: Path, settings: dict[str, Any] = SETTINGS, **options: Any) -> RunFolder:
    return RunFolder(path, settings, {"environment": {"torch": "1"}}, **options)


def run_squares(
    path: Path, squares: Squares | None = None, step: int = 10, **options: Any
) -> tuple[np.ndarray, Squares, RunFolder]:
    squares = squares or Squares()
    folder = open_folder(path, **options)
    try:
        fill(folder, squares.stage, squares.compute, step)
        return folder.shards.columns(squares.stage)["square"], squares, folder
    finally:
        folder.close()


def shard_paths(path: Path) -> list[Path]:
    return sorted((path / "shards").glob("*.parquet"))


def test_a_stage_is_computed_once_and_read_back_whole(tmp_path: Path) -> None:
    values, first, _ = run_squares(tmp_path / "run")
    assert values.tolist() == [float(i * i) for i in range(25)]
    assert first.asked == [range(0, 10), range(10, 20), range(20, 25)]
    again, second, _ = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist()
    assert second.asked == []


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "swap", "renumbered", "foreign"])
def test_a_damaged_shard_is_set_aside_and_computed_again(tmp_path: Path, harm: str) -> None:
    values, _, _ = run_squares(tmp_path / "run")
    victim = shard_paths(tmp_path / "run")[1]
    content = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    elif harm == "swap":  # whole, but another shard's
        victim.write_bytes(shard_paths(tmp_path / "run")[0].read_bytes())
    elif harm == "renumbered":  # whole, with the right digest, but of other rows
        other = shard_paths(tmp_path / "run")[0]
        victim.unlink()
        victim = other.with_name(other.name.replace("-00000-", "-00001-"))
        shutil.copy(other, victim)
    elif harm == "foreign":  # whole, with the right digest, but no shard of this run
        run_squares(tmp_path / "other", settings={**SETTINGS, "seed": 1})
        victim.unlink()
        victim = tmp_path / "run/shards" / shard_paths(tmp_path / "other")[1].name
        shutil.copy(shard_paths(tmp_path / "other")[1], victim)
    else:
        victim.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist()
    assert squares.asked == [range(10, 20)]
    assert folder.damaged == [victim.name]
    assert (tmp_path / "run/damaged" / victim.name).is_file()


def test_a_shard_with_rows_past_the_end_is_set_aside_and_computed_again(tmp_path: Path) -> None:
    """Whole, with the right digest and settings: of the same run when its input was longer."""
    values, _, _ = run_squares(tmp_path / "run")
    run_squares(tmp_path / "longer", Squares(rows=35))
    shard_paths(tmp_path / "run")[2].unlink()
    victim = tmp_path / "run/shards" / shard_paths(tmp_path / "longer")[2].name
    shutil.copy(shard_paths(tmp_path / "longer")[2], victim)
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist() and squares.asked == [range(20, 25)]
    assert folder.damaged == [victim.name]


def test_every_single_flipped_byte_of_a_shard_is_noticed(tmp_path: Path) -> None:
    run_squares(tmp_path / "run", Squares(rows=3))
    stage = Squares(rows=3).stage
    victim = shard_paths(tmp_path / "run")[0]
    content = victim.read_bytes()
    folder = open_folder(tmp_path / "run")
    try:
        assert folder.shards.whole(stage) == {range(3): victim}  # the check itself can pass
        for place in range(0, len(content), 7):
            victim.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            assert folder.shards.whole(stage) == {}, place
    finally:
        folder.close()


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


def test_two_processes_cannot_write_one_folder(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run")
    try:
        program = (
            "import sys; from pathlib import Path; from instsel.runs.lock import RunLock, FolderInUseError\n"
            "try: RunLock(Path(sys.argv[1])).acquire()\n"
            "except FolderInUseError as error: print(error)\n"
        )
        said = subprocess.run([sys.executable, "-c", program, tmp_path / "run"], capture_output=True, text=True)
        assert f"is being written by process {os.getpid()} on " in said.stdout
    finally:
        folder.close()
    lock = RunLock(tmp_path)
    lock.acquire()  # once released it can be had
    lock.release()


@pytest.mark.parametrize(("pid", "ticks", "stale"), [("own", 0, False), ("own", 1, True), ("gone", 0, True)], ids=str)
def test_without_a_kernel_lock_process_id_and_start_time_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str, ticks: int, stale: bool
) -> None:
    import fcntl

    def unsupported(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    me = Holder.this_process()
    assert me.start_time > 0
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    number = me.pid if pid == "own" else child.pid
    holder = {"host": me.host, "pid": number, "start_time": me.start_time + ticks}
    (tmp_path / "lock").write_text(json.dumps(holder))
    if stale:
        RunLock(tmp_path).acquire()
    else:
        with pytest.raises(FolderInUseError):
            RunLock(tmp_path).acquire()


def test_an_interrupted_shard_is_dropped_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    squares = Squares()

    def compute(rows: range) -> Any:
        if rows.start == 20 and len(squares.asked) == 2:
            raise KeyboardInterrupt
        return squares.compute(rows)

    folder = open_folder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fill(folder, ShardedStage("squares", 25), compute)
    folder.close()
    assert len(shard_paths(tmp_path / "run")) == 2
    values, later, _ = run_squares(tmp_path / "run")
    assert later.asked == [range(20, 25)] and values[24] == 576.0


def test_where_shards_end_is_no_setting(tmp_path: Path) -> None:
    """What is there counts wherever it ends, and what is between it is computed and nothing else."""
    run_squares(tmp_path / "run")
    shard_paths(tmp_path / "run")[1].unlink()
    values, squares, folder = run_squares(tmp_path / "run", step=4)
    assert squares.asked == [range(10, 12), range(12, 16), range(16, 20)]
    assert values.tolist() == [float(i * i) for i in range(25)] and folder.damaged == []
    again, squares, _ = run_squares(tmp_path / "run", step=25)
    assert again.tolist() == values.tolist() and squares.asked == []


@pytest.mark.parametrize("first_row", [3, 20])
def test_a_shard_of_rows_that_another_has_or_that_are_not_there_is_set_aside(tmp_path: Path, first_row: int) -> None:
    """Whole and of this run, as it says itself, but not beside the others: no row may come twice, and none too many."""
    values, _, _ = run_squares(tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    rows = range(first_row, first_row + 10)
    packed = pack_shard("squares", folder.shards.settings, rows, {"square": np.full(10, -1.0)}, {})
    extra = folder.shards.write(ShardedStage("squares", 40), first_row, packed)
    folder.close()
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist() and squares.asked == [] and folder.damaged == [extra.name]


def test_a_file_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    with durable_file(tmp_path, "name") as file:
        file.write(b"whole")
        file.flush()
        assert not (tmp_path / "name").exists()
    assert (tmp_path / "name").read_bytes() == b"whole"
