"""SIGKILL at any moment loses nothing: the same command, given again, gives the rows and numbers of a straight run."""

from __future__ import annotations

import collections
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_process import CommandServer, command_server
from tiny_model import tiny_model_folder, write_alpaca

pytestmark = pytest.mark.long

SHARDS, SHARD_ROWS = 40, 12
_SLOW_FILES = """
import instsel.runs.durable_files as files
real = files.os.replace
def slow(*paths):  # the narrow places: before and after a file gets its name
    time.sleep(0.004)
    real(*paths)
    time.sleep(0.004)
files.os.replace = slow
"""
_SLOW_MERGE = """
import instsel.runs.merged_output as merged
real = merged._pieces
def slow(tables):
    open({mark!r}, "w").close()
    for piece in real(tables):
        time.sleep(0.02)
        yield piece
merged._pieces = slow
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with command_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def command(method: str, rows: Path, output: Path) -> list[object]:
    return [
        method, rows, "--model", tiny_model_folder(), "--device", "cpu", "--output", output,
        "--shard-rows", SHARD_ROWS, "--quiet",
    ]  # fmt: skip


def run_with_kills(server: CommandServer, tmp_path: Path, method: str, kills: int, seed: int) -> None:
    """Kill one run `kills` times, then let it finish, and compare it with a run that nobody killed."""
    rows = write_alpaca(tmp_path / "rows.jsonl", SHARDS * SHARD_ROWS)
    straight, killed = command(method, rows, tmp_path / "straight"), command(method, rows, tmp_path / "killed")
    assert server.run(straight, prepare=_SLOW_FILES) == 0, server.errors
    before = len(server.computed)
    rng = random.Random(seed)
    for _ in range(kills):
        # At any moment of the start, or shortly after a shard was written: one shard a kill leaves enough to kill.
        written = count_shards(tmp_path / "killed")
        child = server.start(killed, prepare=_SLOW_FILES)
        if rng.random() < 0.7:
            server.wait_for(child, lambda written=written: count_shards(tmp_path / "killed") > written)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL, server.errors
    assert server.run(killed, prepare=_SLOW_FILES) == 0, server.errors
    repeated = sum(count - 1 for count in collections.Counter(server.computed[before:]).values())
    assert repeated <= kills, "more than one shard's work was repeated per kill"
    assert_same_result(tmp_path)
    assert not (tmp_path / "killed/damaged").exists()


def count_shards(run: Path) -> int:
    return len(list((run / "shards").glob("*.parquet")))


def assert_same_result(tmp_path: Path) -> None:
    """Every row there, in order, with the same bits as in the run that nobody killed, and no file left over."""
    want, got = (pq.read_table(tmp_path / name / "scores.parquet") for name in ("straight", "killed"))
    assert got.equals(want)
    assert want.column("id").to_pylist() == [f"row-{i}" for i in range(SHARDS * SHARD_ROWS)]
    assert [path.name for path in (tmp_path / "killed").rglob(".*")] == []


def test_a_run_killed_at_random_moments_is_the_run_not_killed(server: CommandServer, tmp_path: Path) -> None:
    run_with_kills(server, tmp_path, "score", 5, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["score", "wici"])
def test_a_run_killed_at_thirty_random_moments_is_the_run_not_killed(
    server: CommandServer, tmp_path: Path, method: str
) -> None:
    run_with_kills(server, tmp_path, method, 30, seed=2)


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_merge_killed_at_random_moments_leaves_no_half_file(
    server: CommandServer, tmp_path: Path, kills: int
) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", SHARDS * SHARD_ROWS)
    assert server.run(command("score", rows, tmp_path / "straight")) == 0, server.errors
    killed = command("score", rows, tmp_path / "killed")
    rng = random.Random(kills)
    for _ in range(kills):
        child = server.start(killed, prepare=_SLOW_MERGE.format(mark=str(tmp_path / "merging")))
        server.wait_for(child, lambda: (tmp_path / "merging").exists())
        (tmp_path / "merging").unlink()
        time.sleep(rng.uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL, server.errors
        assert not (tmp_path / "killed/scores.parquet").exists()
    assert server.run(killed) == 0, server.errors
    assert_same_result(tmp_path)
