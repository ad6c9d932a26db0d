"""SIGKILL at random moments of commands that write: inputs stay byte for byte, results are whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_process import CommandServer, command_server
from test_run_readers import finished
from tiny_model import tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.runs.durable_files import digest_file
from instsel.runs.finished_run import read_run
from instsel.runs.run_files import PAGE, is_page

ROWS = 40
Command = tuple[list[object], Callable[[], bool]]  # a command, and whether its result is whole; an error if it is torn


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    with command_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def scored(rows: Path, output: Path, *more: object) -> list[object]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", 10, "--quiet"]
    return ["perplexity", rows, "--output", output, *model, *more]


def whole_run(folder: Path, *rows: int) -> Callable[[], bool]:
    """Whether a folder is a finished run; its result, if it has one, is what its manifest says."""

    def check() -> bool:
        if not (folder / "manifest.json").exists():
            return False
        run = read_run(folder)
        result = run.result()
        if result is None:
            assert run.manifest["state"] != "finished"
            return False
        assert run.manifest["output"].get("digest", digest_file(result)) == digest_file(result)
        assert pq.read_table(result).num_rows in rows
        return True

    return check


def whole_file(path: Path, read: Callable[[Path], object]) -> Callable[[], bool]:
    def check() -> bool:
        if path.exists():
            assert read(path)
        return path.exists()

    return check


def export_is_whole(folder: Path) -> Callable[[], bool]:
    def read(path: Path) -> object:
        return all(json.loads(line)["prompt"] for line in path.read_text().splitlines())

    return whole_file(folder / "instsel.jsonl", read)


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kills", [pytest.param(18, marks=pytest.mark.long), pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_random_moments(server: CommandServer, tmp_path: Path, kills: int) -> None:
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    out.mkdir()
    run = finished(inputs / "run")
    rows = write_alpaca(inputs / "rows.jsonl", ROWS)
    assert server.run(scored(rows, out / "first")) == 0, server.errors
    again = out / "first/scores.parquet"
    chosen = ["select", run, "--quiet", "--output", out / "chosen", "--overwrite", "--budget"]
    commands: list[Command] = [
        ([*chosen, 5], whole_run(out / "chosen", 5, 6)),
        ([*chosen, 6], whole_run(out / "chosen", 5, 6)),
        (["merge", run, "--quiet", "--output", out / "all.parquet", "--overwrite"],
         whole_file(out / "all.parquet", lambda path: pq.read_table(path).num_rows == 30)),
        (["export", run, "--quiet", "--to", "trl", "--output", out / "export", "--overwrite"],
         export_is_whole(out / "export")),
        (["report", run, "--quiet", "--output", out / PAGE],
         whole_file(out / PAGE, lambda path: is_page(path) and path.read_text().rstrip().endswith("</html>"))),
        (scored(again, out / "second", "--overwrite"), whole_run(out / "second", ROWS, ROWS - 1)),
        (scored(again, out / "second", "--overwrite", "--limit", ROWS - 1), whole_run(out / "second", ROWS, ROWS - 1)),
    ]  # fmt: skip
    before, first = content(inputs), content(out / "first")
    rng, ends = random.Random(kills), 0
    for number in range(kills):
        command, whole = commands[number % len(commands)]
        child = server.start(command)
        time.sleep(rng.uniform(0, 0.4))
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(child, signal.SIGKILL)
        ends += server.wait() == 0
        assert content(inputs) == before and content(out / "first") == first, command
        whole()
    for command, whole in commands:
        assert server.run(command) == 0, (command, server.errors)
        assert whole(), command
    assert ends < kills, "nothing was killed before its end"
    assert main(["status", str(out / "second")]) == 0 and read_run(out / "second").manifest["rows"] == ROWS - 1
    assert content(inputs) == before and content(out / "first") == first
    assert not list(out.rglob(".unfinished-*"))
