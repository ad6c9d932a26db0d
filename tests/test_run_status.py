"""What a run writes of what it is doing, and what `instsel status` says of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_plan import command
from tiny_model import write_alpaca

from instsel.cli import main
from instsel.commands import status as status_command
from instsel.runs.run_status import RunStatusFile

pytestmark = pytest.mark.usefixtures("one_loading")


def test_status_says_what_runs_before_a_shard_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, run = write_alpaca(tmp_path / "rows.jsonl", 40), tmp_path / "run"
    assert main(command("ifd", rows, "--output", run)) == 0
    for path in (run / "shards").glob("*"):
        path.unlink()
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": "running"}))
    monkeypatch.setattr(status_command, "running_holder", lambda folder: "process 1")
    clock = SimpleNamespace(time=lambda: 1e9, monotonic=time.monotonic)
    monkeypatch.setattr("instsel.runs.run_status.time", clock)
    file = RunStatusFile(run)
    file.begin("ifd", 40, 0)
    clock.time = lambda: 1e9 + 60
    file._last = 0.0
    file.advance(10.0)
    capsys.readouterr()
    assert main(["status", str(run)]) == 0
    said = capsys.readouterr().out
    assert "ifd: 0 of 40 rows" in said
    assert "ifd runs since 2001-09-09 01:46:40 UTC" in said and "about 10.0 of 40 rows, about 3 min 00 s left" in said
    monkeypatch.setattr(status_command, "running_holder", lambda folder: None)
    assert main(["status", str(run)]) == 0
    assert "runs since" not in capsys.readouterr().out, "the control: nothing runs"


def test_a_run_writes_what_it_is_doing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    advance = RunStatusFile.advance

    def noted(self: RunStatusFile, done: float) -> None:
        seen.append((self._stage["stage"], done))
        advance(self, done)

    monkeypatch.setattr(RunStatusFile, "advance", noted)
    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    assert main(command("ifd", rows, "--output", tmp_path / "run", "--max-batch-tokens", 256)) == 0
    within = [done for stage, done in seen if stage == "ifd"]
    assert within == sorted(within) and within[-1] == 40 and any(0 < done < 40 for done in within)
    assert (tmp_path / "run/progress.json").is_file()


def test_a_folder_of_runs_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = write_alpaca(tmp_path / "rows.jsonl", 6)
    assert main(command("ifd", rows, "--output", tmp_path / "all/scores")) == 0
    for words in (["status"], ["report"], ["select", "--budget", "1", "--output", str(tmp_path / "x")]):
        capsys.readouterr()
        assert main([*words, str(tmp_path / "all")]) == 2
        assert f"it has no manifest.json; {tmp_path / 'all/scores'} is one" in capsys.readouterr().err
