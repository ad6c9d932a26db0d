"""Every hostile file through every command: one clear line or a status for each row; nothing else."""

from __future__ import annotations

import math
import re
import resource
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hostile_inputs import BIG, NAMES, write_hostile_file
from tiny_model import tiny_model_folder

from instsel.cli import main

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_loading")]

COMMANDS = ("score", "ifd", "wici", "grape", "select")
STATUSES = {"ok", "empty_target", "too_long", "nonfinite", "out_of_memory", "unreadable"}
MARKER = {"score": "mean_logprob", "ifd": "ifd", "wici": "score"}  # the number that a row has exactly where it is "ok"


def run(command: str, path: Path, output: Path) -> int:
    if command == "select":
        return main(["select", str(path), "--budget", "1", "--output", str(output)])
    model = ["--model", tiny_model_folder(), "--device", "cpu"]
    return main([command, str(path), *model, "--output", str(output), "--shard-rows", "64"])


def check_words(text: str) -> None:
    """Nothing that a terminal would act on but line ends, and no traceback."""
    assert not re.search(r"^Traceback|^  File|error: unexpected [A-Z]", text, re.MULTILINE), text
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n"}
    assert not bad, (bad, text)


def check_result(command: str, output: Path) -> None:
    """Every row accounted for: a number where it is "ok", and none where it is not."""
    table = pq.read_table(output / "scores.parquet")
    own = [name for name in table.column_names if name in ("status", "instsel_status")][-1]
    statuses = table.column(own).to_pylist()
    assert table.num_rows > 0 and set(statuses) <= STATUSES
    if command in MARKER:
        marker = MARKER[command]
        name = f"instsel_{marker}" if f"instsel_{marker}" in table.column_names else marker
        for status, number in zip(statuses, table.column(name).to_pylist(), strict=True):
            assert (number is not None and math.isfinite(number)) == (status == "ok"), (status, number)


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_ends_in_a_message_or_in_row_statuses(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_hostile_file(name, tmp_path)
    tiny_model_folder()
    capfd.readouterr()
    for command in COMMANDS:
        output = tmp_path / command
        code = run(command, path, output)
        said = capfd.readouterr()
        check_words(said.out + said.err)
        complaints = said.err.splitlines()
        errors = [line for line in complaints if line.startswith("instsel: error: ")]
        assert all(line.startswith("instsel: ") for line in complaints), said.err
        assert code in (0, 1, 2), (command, said.err)  # 1: more rows than --max-failures cannot be scored
        assert len(errors) == (code != 0), said.err
        assert all(len(line) > 30 for line in errors)
        if code == 0 and command != "select":
            check_result(command, output)
        elif code == 2:
            assert not output.exists(), "a command that computed nothing leaves nothing"
    assert not (tmp_path / "owned").exists() and not Path("owned").exists()


def test_the_check_of_words_can_fail() -> None:
    for text in (
        "a\x1b[31m",
        "a\u202eb",
        "Traceback (most recent call last)",
        "instsel: error: unexpected KeyError: x",
    ):
        with pytest.raises(AssertionError):
            check_words(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
@pytest.mark.timeout(600)
def test_a_huge_file_ends_likewise_within_bounded_memory(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_hostile_file(name, tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in COMMANDS:
        code = run(command, path, tmp_path / command)
        said = capfd.readouterr()
        check_words(said.out + said.err)
        assert code in (0, 2), said.err
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 1024 + 12 * path.stat().st_size / 1e6, f"{grown:.0f} MiB more"
