"""Faults amid a command, of memory, a kernel, the disk: what is whole is kept, and the same command continues."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.runner import scored_run
from instsel.runs import durable_files

pytestmark = pytest.mark.usefixtures("one_loading")

ROWS, SHARD_ROWS = 60, 10


def command(tmp_path: Path, name: str = "run", *more: str) -> list[str]:
    rows = tmp_path / "rows.jsonl"
    if not rows.exists():
        write_alpaca(rows, ROWS)
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", str(SHARD_ROWS), "--quiet"]
    return ["ifd", str(rows), *model, "--output", str(tmp_path / name), *more]


def scores(tmp_path: Path, name: str = "run") -> pa.Table:
    return pq.read_table(tmp_path / name / "scores.parquet")


def failing_at(call: int, real: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """The function, raising an error at one of its calls."""
    calls = [0]

    def fails(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return real(*args, **options)

    return fails


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: an illegal memory access\nCompile with TORCH_USE_CUDA_DSA"), ZeroDivisionError("x / 0")],
)
def test_a_fault_in_a_kernel_call_ends_the_run_and_the_same_command_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    import instsel.engine.scoring as scoring

    assert main(command(tmp_path, "straight")) == 0
    with monkeypatch.context() as patch:
        real, shards = scoring.pair_logprobs, tmp_path / "run/shards"

        def faulty(*args: Any, **options: Any) -> Any:
            if len(list(shards.glob("*.parquet"))) == 2:
                raise error
            return real(*args, **options)

        patch.setattr(scoring, "pair_logprobs", faulty)
        assert main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    first = str(error).split("\n")[0]
    assert said.count("\n") == 1 and f"{type(error).__name__}: {first}; what is whole is kept" in said, said
    assert "ifd, rows 20 to 29: " in said and len(list(shards.glob("*.parquet"))) == 2
    assert json.loads((tmp_path / "run/manifest.json").read_text())["state"] == "failed"
    assert main(command(tmp_path)) == 0
    assert scores(tmp_path).equals(scores(tmp_path, "straight"))


def test_a_run_that_goes_on_with_another_library_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The manifest names every library that float32 products were made by."""
    import instsel.engine.scoring as scoring

    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "mkl")
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "pair_logprobs", failing_at(3, scoring.pair_logprobs, RuntimeError("stopped")))
        assert main(command(tmp_path)) == 1
    noted = json.loads((tmp_path / "run/manifest.json").read_text())["arithmetic"]
    assert len(noted) == 1 and noted[0].endswith("float32 products by mkl")
    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "onednn")
    capsys.readouterr()
    assert main(command(tmp_path)) == 0
    said = capsys.readouterr().err
    assert f"begun with {noted[0]} and goes on with" in said and "float32 products by onednn: last digits" in said
    assert len(json.loads((tmp_path / "run/manifest.json").read_text())["arithmetic"]) == 2


@pytest.mark.long
def test_rows_that_do_not_fit_into_memory_are_counted_and_fail_the_run_beyond_the_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from instsel.engine.model_session import ModelSession

    assert main(command(tmp_path, "straight")) == 0
    real, room = ModelSession.forward_pack, 42

    def small(self: Any, layout: Any, *args: Any, **options: Any) -> Any:
        if len(layout.ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, layout, *args, **options)

    monkeypatch.setattr(ModelSession, "forward_pack", small)
    assert main(command(tmp_path, "run", "--max-failures", "0")) == 1
    said = capsys.readouterr().err
    assert "out_of_memory of 60 rows: more than --max-failures 0.0% failed" in said
    assert main(command(tmp_path, "run", "--max-failures", "60%")) == 0, "the finished run judged by another threshold"
    got, want = scores(tmp_path).to_pydict(), scores(tmp_path, "straight").to_pydict()
    lost = [i for i, status in enumerate(got["status"]) if status == "out_of_memory"]
    assert 0 < len(lost) < ROWS / 2
    assert all(got["ifd"][i] is None and want["status"][i] == "ok" for i in lost)
    kept = [i for i, status in enumerate(got["status"]) if status == "ok"]
    values = [np.array([table["ifd"][i] for i in kept]) for table in (got, want)]
    assert len(kept) > ROWS / 4 and np.abs(values[0] / values[1] - 1).max() < 1e-4


@pytest.mark.long
def test_a_disk_that_fills_up_ends_the_command_with_1_and_it_continues_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert main(command(tmp_path, "straight")) == 0
    capsys.readouterr()
    for call in (1, 2, 6, 9, 12, 14):  # the manifest, the rows, shards, the merged file
        with monkeypatch.context() as patch:
            patch.setattr(durable_files.os, "fsync", failing_at(2 * call - 1, os.fsync, full))
            code = main(command(tmp_path, f"run{call}"))
        said = capsys.readouterr().err
        assert code in (1, 2) and said.count("\n") == 1 and "No space left on device" in said, (call, code, said)
        assert main(command(tmp_path, f"run{call}")) == 0
        assert scores(tmp_path, f"run{call}").equals(scores(tmp_path, "straight"))
        assert not list((tmp_path / f"run{call}").rglob(".*"))


@pytest.mark.long
@pytest.mark.parametrize("change", ["edited", "cut off", "appended to", "removed"])
@pytest.mark.parametrize("files", [1, 2])
def test_an_input_that_changes_before_it_is_read_is_no_run_of_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str, files: int
) -> None:
    """Between the digest, by which the run is known, and the rows lies the model's, which takes its time."""
    words = command(tmp_path)
    rows = tmp_path / "rows.jsonl"
    if files == 2:
        words.insert(2, str(write_alpaca(tmp_path / "more.jsonl", 9, first=ROWS)))
    before = rows.read_bytes()
    after = {
        "edited": before.replace(b"thing", b"think"), "cut off": before[: before.index(b"\n") + 1],
        "appended to": before + before, "removed": b"",
    }[change]  # fmt: skip
    settle = scored_run.settle

    def changing(*given: Any) -> Any:
        found = settle(*given)
        rows.write_bytes(after) if after else rows.unlink()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(scored_run, "settle", changing)
        assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rows.jsonl" in said and "cannot write" not in said
    assert ("does not exist" if change == "removed" else "was changed while it was read") in said
    assert not (tmp_path / "run").exists()
    for content in (after, before):
        if content:
            rows.write_bytes(content)
            assert main([*words, "--overwrite"] if content is before else words) == 0
            assert scores(tmp_path)["instruction"].to_pylist()[: content.count(b"\n")] == [
                json.loads(line)["instruction"] for line in content.splitlines()
            ]
