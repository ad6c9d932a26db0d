"""Runs over workers that are disturbed while they work, and what they are held to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder, write_alpaca

from instsel.cli import main

ROWS, SHARD_ROWS = 240, 10
HOLD = "hold"  # while a file of this name is beside the run, its workers finish nothing
SLOW = """
import os, time
from instsel.methods.definition import method
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Stage

def compute(part):
    time.sleep({pause})
    while os.path.exists({hold!r}):
        time.sleep(0.02)
    batch = part.score([part.request(row) for row in part.rows])
    return {{"score": batch.mean_logprob, "status": batch.status}}

@method("slow", help="takes its time", parameters=Parameters, stages=(Stage("slow", compute),))
def slow(outcome):
    return dict(outcome.columns)
"""


POISON = """
import os, signal
import numpy as np
from instsel.methods.definition import method
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Stage

def compute(part):
    batch = part.score([part.request(row) for row in part.rows])
    if {rows} & set(part.rows) and ({always} or np.isfinite(batch.mean_logprob).any()):
        os.kill(os.getpid(), signal.SIGKILL)  # as a driver's fault does amid a forward
    return {{"score": batch.mean_logprob, "status": batch.status}}

@method("poison", help="kills", parameters=Parameters, stages=(Stage("poison", compute),))
def poison(outcome):
    return dict(outcome.columns)
"""


def command(
    folder: Path, name: str, *more: str, method: str = "slow", pause: float = 0.03, dtype: str = "float32"
) -> list[str]:
    """A run over a pool of rows, by default of a plug-in that takes its time."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        write_alpaca(rows, ROWS)
    (folder / "slow_plugin.py").write_text(SLOW.format(pause=pause, hold=str(folder / HOLD)))
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", dtype]
    run = ["--shard-rows", str(SHARD_ROWS), "--quiet", "--output", str(folder / name)]
    return ["--plugin", str(folder / "slow_plugin.py"), method, str(rows), *model, *run, *more]


def poisoned(tmp_path: Path, rows: set[int], *, always: bool = False) -> list[str]:
    """A run on two workers that some rows kill: amid a forward, or always."""
    write_alpaca(tmp_path / "rows.jsonl", 60)
    (tmp_path / "poison.py").write_text(POISON.format(rows=rows, always=always))
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    run = ["--shard-rows", "10", "--output", str(tmp_path / "run"), "--workers", "2"]
    return ["--plugin", str(tmp_path / "poison.py"), "poison", str(tmp_path / "rows.jsonl"), *model, *run]


def use_pool(monkeypatch: pytest.MonkeyPatch, pool: Any) -> None:
    """Let commands that ask for workers use a pool that is already up, and leave it up."""
    import instsel.runner.scored_run as scored_run

    monkeypatch.setattr(scored_run, "open_pool", lambda *given: contextlib.nullcontext(pool))


def shards(run: Path) -> int:
    return len(list((run / "shards").glob("*.parquet")))


def assert_same_run(one: Path, other: Path) -> None:
    """The same rows with the same bits, and the same counts by status."""
    tables = [pq.read_table(run / "scores.parquet") for run in (one, other)]
    assert tables[0].num_rows > 0 and tables[0].equals(tables[1])
    counts = [json.loads((run / "manifest.json").read_text())["counts"] for run in (one, other)]
    assert counts[0] == counts[1]


@contextlib.contextmanager
def disturbed(run: Path, each: int, times: int, strike: Callable[[int], None]) -> Iterator[list[int]]:
    """A block in which `strike(i)` is called after every `each` more shards of a run; gives when that was.

    The run waits meanwhile: on a busy machine a strike may take longer than all that is left of it.
    """
    struck: list[int] = []
    over = threading.Event()

    def watch() -> None:
        target = each
        while not over.is_set() and len(struck) < times:
            if shards(run) >= target:
                (run.parent / HOLD).touch()
                try:
                    strike(len(struck))
                finally:
                    (run.parent / HOLD).unlink()
                struck.append(shards(run))
                target = struck[-1] + each
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield struck
    finally:
        over.set()
        watcher.join()


def kill_worker(pool: Any, number: int) -> None:
    """SIGKILL a living worker that is at a task, the given one first, waiting until there is one."""

    living: list[int] = []

    def some_are_at_a_task() -> bool:
        told = pool.status()
        first = number % len(told)
        at_a_task = [worker for worker in [*told[first:], *told[:first]] if "rows" in worker["state"]]
        # One that died a moment ago, of which the driver does not know yet, would be no kill.
        living[:] = [worker["pid"] for worker in at_a_task if is_alive(worker["pid"])]
        return bool(living)

    wait_until(some_are_at_a_task, 120)
    os.kill(living[0], signal.SIGKILL)


def deaths(pool: Any) -> int:
    return sum(worker["deaths"] for worker in pool.status())


def run(arguments: list[str]) -> None:
    assert main(arguments) == 0


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for so many seconds in which this process runs: a machine that stops for a minute is no failure."""
    waited = 0.0
    while not condition():
        assert waited < seconds
        began = time.monotonic()
        time.sleep(0.02)
        waited += min(time.monotonic() - began, 0.2)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Living worker processes that a driver started, also when that is gone: its number is in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f", {pid}, ".encode() in path.read_bytes() and is_alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found
