"""One process at a time writes a run folder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from squares import open_folder

from instsel.runs.lock import FolderInUseError, Holder, RunLock


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
