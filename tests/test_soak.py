"""A long run holds as much memory at its end as soon after its beginning."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_process import CommandServer, command_server
from tiny_model import tiny_model_folder, write_alpaca

ROWS, SHARD_ROWS = 200_000, 1000


def resident_megabytes(process: int) -> float:
    """Resident memory of a process as the kernel counts it; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def watched_run(server: CommandServer, command: list[object], shards: Path) -> list[tuple[int, float]]:
    """Run a command; (shards written, resident megabytes) every tenth of a second."""
    child = server.start(command)
    seen: list[tuple[int, float]] = []
    while (memory := resident_megabytes(child)) > 0:
        seen.append((len(list(shards.glob("*.parquet"))), memory))
        time.sleep(0.1)
    assert server.wait() == 0, server.errors
    return seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("method", ["score", "ifd"])
def test_two_hundred_thousand_rows_take_no_more_memory_than_twenty_thousand(tmp_path: Path, method: str) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", ROWS)
    output = tmp_path / "run"
    command: list[object] = [
        method, rows, "--model", tiny_model_folder(), "--output", output, "--shard-rows", SHARD_ROWS, "--quiet",
    ]  # fmt: skip
    with command_server(tmp_path) as server:
        seen = watched_run(server, command, output / "shards")
    total = ROWS // SHARD_ROWS
    tenth = max(memory for done, memory in seen if done <= total // 10)
    end = max(memory for done, memory in seen if done > total * 9 // 10)
    print(f"{method}: resident after a tenth {tenth:.0f} MiB, at the end {end:.0f} MiB, {end / tenth - 1:+.1%}")
    assert pq.read_metadata(output / "scores.parquet").num_rows == ROWS
    assert end <= 1.1 * tenth
