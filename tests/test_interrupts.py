"""Ctrl-C and SIGTERM: in order at the first, at once at the second, and never with harm."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_process import CommandServer, command_server
from tiny_model import tiny_model_folder, write_alpaca

from instsel.runs.interrupts import Interrupted, Interrupts

pytestmark = pytest.mark.long

_SLOW_SHARDS = """
import instsel.runs.shards
real = instsel.runs.shards.ShardFolder.write
def slow(*arguments):
    time.sleep(0.05)
    return real(*arguments)
instsel.runs.shards.ShardFolder.write = slow
"""
# A write that never ends, as on a disk that hangs: the first signal waits for it, the second one does not. That the
# first has been taken is told by the handler itself: a signal may come at any line of the write.
_STUCK_SHARD = """
import instsel.runs.interrupts, instsel.runs.shards
real = instsel.runs.shards.ShardFolder.write
handle = instsel.runs.interrupts.Interrupts._handle
def told(self, number, frame):
    handle(self, number, frame)
    open({asked!r}, "w").close()
def stuck(self, stage, number, *rest):
    if number == 30:  # the first row of the fourth shard
        open({mark!r}, "w").close()
        while True:
            time.sleep(0.01)
    return real(self, stage, number, *rest)
instsel.runs.interrupts.Interrupts._handle = told
instsel.runs.shards.ShardFolder.write = stuck
"""

_SLOW_LOADING = """
import instsel.engine.scorer
def slow(source):
    open({mark!r}, "w").close()
    time.sleep(3600)
instsel.engine.scorer.load_model = slow
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with command_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def command(tmp_path: Path, rows: int = 300) -> list[object]:
    path = write_alpaca(tmp_path / "rows.jsonl", rows)
    return ["score", path, "--model", tiny_model_folder(), "--output", tmp_path / "run", "--shard-rows", 10, "--quiet"]


def shards(tmp_path: Path) -> int:
    return len(list((tmp_path / "run/shards").glob("*.parquet")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_order_and_the_same_command_continues(
    server: CommandServer, tmp_path: Path, number: signal.Signals
) -> None:
    child = server.start(command(tmp_path), prepare=_SLOW_SHARDS)
    server.wait_for(child, lambda: shards(tmp_path) >= 2)
    os.kill(child, number)
    assert server.wait() == 128 + number
    said = f"{number.name}; {tmp_path / 'run'} keeps what is whole, and the same command continues\n"
    assert server.errors.endswith(f"instsel: interrupted: {said}")
    kept = shards(tmp_path)
    assert 2 <= kept < 30
    assert server.run(["status", tmp_path / "run"]) == 0
    assert "perplexity, interrupted" in server.output and f"{kept * 10} of 300 rows" in server.output
    before = len(server.computed)
    assert server.run(command(tmp_path)) == 0, server.errors
    assert len(server.computed) - before == 30 - kept
    assert pq.read_table(tmp_path / "run/scores.parquet").num_rows == 300


def test_a_second_signal_leaves_at_once_and_harms_nothing(server: CommandServer, tmp_path: Path) -> None:
    mark, asked = tmp_path / "stuck", tmp_path / "asked"
    child = server.start(command(tmp_path), prepare=_STUCK_SHARD.format(mark=str(mark), asked=str(asked)))
    server.wait_for(child, mark.exists)
    os.kill(child, signal.SIGINT)
    server.wait_for(child, asked.exists)  # two signals at once would come as one
    os.kill(child, signal.SIGINT)
    assert server.wait() == 130
    assert shards(tmp_path) == 3
    assert server.run(command(tmp_path)) == 0, server.errors
    assert shards(tmp_path) == 30 and not (tmp_path / "run/damaged").exists()


def test_a_signal_before_the_first_shard_leaves_a_command_that_can_be_repeated(
    server: CommandServer, tmp_path: Path
) -> None:
    mark = tmp_path / "loading"
    child = server.start(command(tmp_path), prepare=_SLOW_LOADING.format(mark=str(mark)))
    server.wait_for(child, mark.exists)
    os.kill(child, signal.SIGTERM)
    assert server.wait() == 143
    assert server.run(command(tmp_path)) == 0, server.errors


def test_a_signal_that_a_library_swallowed_is_raised_at_the_next_check() -> None:
    before = signal.getsignal(signal.SIGTERM)  # another library in this process may have put its own in
    with Interrupts() as interrupts:
        interrupts.check()
        with contextlib.suppress(KeyboardInterrupt):  # as a library might
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as stop:
            interrupts.check()
    assert stop.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before, "the handlers are put back"


def test_a_signal_within_a_held_stretch_waits_for_its_end() -> None:
    reached = []
    with Interrupts() as interrupts, pytest.raises(Interrupted), interrupts.held():
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("end of the stretch")
    assert reached == ["end of the stretch"]
