"""`run_method`: what a command does, called from Python."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main
from instsel.methods.registry import BUILT_IN
from instsel.runner import method_run, scored_run
from instsel.runner.configuration import RunConfiguration

MODEL = {"device": "cpu", "dtype": "float32"}


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    load_models_once(monkeypatch)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_alpaca(tmp_path / "rows.jsonl", 40)


def command(rows: Path, run: Path, *more: str, method: str = "ifd") -> list[str]:
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32"]
    return [method, str(rows), *model, "--output", str(run), "--quiet", *more]


def call(rows: Path, run: Path, method: str = "ifd", **more: Any) -> instsel.MethodRun:
    return instsel.run_method(method, rows, run, model=tiny_model_folder(), **{**MODEL, **more})


def manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return found


def test_it_leaves_what_the_command_leaves(rows: Path, tmp_path: Path) -> None:
    assert main(command(rows, tmp_path / "command", "--shard-rows", "16")) == 0
    found = call(rows, tmp_path / "call", shard_rows=16)
    assert isinstance(found, instsel.MethodRun) and not found.again
    said, expected = manifest(tmp_path / "call"), manifest(tmp_path / "command")
    for one in (said, expected):
        del one["created"], one["updated"], one["stats"]["wall_seconds"], one["stats"]["seconds"]
    expected["arguments"]["output"] = str(tmp_path / "call")
    assert said == expected
    assert Path(found.result).read_bytes() == (tmp_path / "command/scores.parquet").read_bytes()
    given = [json.loads(line)["id"] for line in rows.read_text().splitlines()]
    assert pq.read_table(found.result).column("id").to_pylist() == given, "of all shards"
    assert found.counts == expected["counts"] and sum(found.counts.values()) == 40
    assert found.stats["tokens_forwarded"] == expected["stats"]["tokens_forwarded"] > 0
    again = call(rows, tmp_path / "call", shard_rows=16)
    assert again.again and again.counts == found.counts


@pytest.mark.long
def test_either_continues_the_other(rows: Path, tmp_path: Path) -> None:
    whole = call(rows, tmp_path / "whole", shard_rows=16)
    for place in ("first", "second"):
        run = tmp_path / place
        if place == "first":
            assert main(command(rows, run, "--shard-rows", "16")) == 0
        else:
            call(rows, run, shard_rows=16)
        (run / "scores.parquet").unlink()
        kept, gone, *_ = sorted((run / "shards").iterdir())
        gone.unlink()
        before = kept.stat().st_mtime_ns
        if place == "first":
            call(rows, run, shard_rows=16)
        else:
            assert main(command(rows, run, "--shard-rows", "16")) == 0
        assert kept.stat().st_mtime_ns == before, "what was whole is not computed again"
        assert (run / "scores.parquet").read_bytes() == Path(whole.result).read_bytes()
    with pytest.raises(ValueError, match=r"settings: limit \(none there, 5 now\)"):
        call(rows, tmp_path / "first", shard_rows=16, limit=5)
    (run / "scores.parquet").unlink()
    said = manifest(run)
    said["resolved"]["dtype"] = "bfloat16"  # what "auto" meant on another machine
    (run / "manifest.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match="begun with dtype bfloat16, and it is float32 here; give --dtype bfloat16"):
        call(rows, run, shard_rows=16)


@pytest.mark.parametrize("name", [*BUILT_IN, "score"])
def test_a_call_and_a_command_without_flags_are_one_configuration(
    name: str, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfiguration] = []

    class SeenError(Exception):
        pass

    def note(configuration: RunConfiguration, *rest: Any) -> Any:
        seen.append(configuration)
        raise SeenError

    for module in (scored_run, method_run):
        monkeypatch.setattr(module, "run_into_folder", note)
    needed = {"rico": {"assessment": rows}}.get(name, {})
    main(command(rows, tmp_path / "run", *(f"--{word}={value}" for word, value in needed.items()), method=name))
    with pytest.raises(SeenError):
        call(rows, tmp_path / "run", name, **needed)
    by_flags, by_keywords = seen
    assert by_flags.arguments() == by_keywords.arguments() and by_flags.method is by_keywords.method


def test_values_are_what_flags_make_of_them(rows: Path, tmp_path: Path) -> None:
    """1 and 1.0 are written differently into the settings, whose digest every shard carries."""
    given = method_run._as_given(instsel.selectit.method, {"alpha": 1, "levels": np.int64(4)})
    assert (given["alpha"], given["levels"]) == (1.0, 4)
    assert (type(given["alpha"]), type(given["levels"])) == (float, int)
    path = tmp_path / "vectors.npy"
    assert method_run._as_given(instsel.wici.method, {"embedder": path})["embedder"] == str(path)


def test_arrays_in_files_are_recorded_by_their_digest(rows: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(40, 4)))
    call(rows, tmp_path / "call", "wici", embedder=tmp_path / "vectors.npy")
    assert main(command(rows, tmp_path / "flags", "--embedder", str(tmp_path / "vectors.npy"), method="wici")) == 0
    one, other = (manifest(tmp_path / run) for run in ("call", "flags"))
    assert one["parameters"] == other["parameters"] and len(one["parameters"]["embedder"]) == 64
    tables = [pq.read_table(tmp_path / run / "scores.parquet") for run in ("call", "flags")]
    assert tables[0].equals(tables[1])


def test_what_is_refused_names_the_parameter_and_leaves_no_folder(rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for error, said, method, more in (
        (ValueError, "method: expected one of perplexity, ifd", "idf", {}),
        (TypeError, r"ifd has no parameter 'kinds' \(did you mean kind\?\)", "ifd", {"kinds": "loss"}),
        (ValueError, "kind must be one of ppl, loss, got 'x'", "ifd", {"kind": "x"}),
        (TypeError, "embedder: expected a name or the path of a file", "wici", {"embedder": np.eye(40)}),
        (TypeError, "scorers: expected a list of folders or hub ids", "selectit", {"scorers": "one"}),
        (ValueError, "limit: expected a whole number of at least 1, got 0", "ifd", {"limit": 0}),
        (ValueError, "format: expected one of parquet, jsonl, got 'csv'", "ifd", {"format": "csv"}),
        (TypeError, "dtype: expected a text, got int", "ifd", {"dtype": 32}),
        (ValueError, "--ray needs --workers", "ifd", {"ray": "auto"}),
    ):
        with pytest.raises(error, match=said):
            call(rows, run, method, **more)  # type: ignore[arg-type]
    assert not run.exists()


def test_signals_are_left_alone_and_any_thread_may_call(rows: Path, tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    found: list[instsel.MethodRun] = []
    thread = threading.Thread(target=lambda: found.append(call(rows, tmp_path / "thread")))
    thread.start()
    thread.join()
    call(rows, tmp_path / "main")
    assert {number: signal.getsignal(number) for number in before} == before
    assert Path(found[0].result).read_bytes() == (tmp_path / "main/scores.parquet").read_bytes()


def test_an_interrupted_call_is_noted_and_goes_on(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsel.runs.shards import ShardFolder

    write = ShardFolder.write

    def interrupted(self: Any, stage: Any, first_row: int, packed: Any) -> Path:
        if first_row == 16:
            raise KeyboardInterrupt
        return write(self, stage, first_row, packed)

    monkeypatch.setattr(ShardFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(rows, tmp_path / "run", shard_rows=16)
    monkeypatch.undo()
    assert manifest(tmp_path / "run")["state"] == "interrupted"
    assert len(list((tmp_path / "run/shards").iterdir())) == 1
    assert sum(call(rows, tmp_path / "run", shard_rows=16).counts.values()) == 40


def test_what_a_command_complains_of_is_a_warning(rows: Path, tmp_path: Path) -> None:
    with open(rows, "a", encoding="utf-8") as file:
        file.write('{"instruction": ["no text"], "output": "an answer"}\n')
    with pytest.warns(UserWarning, match="1 of 41 rows cannot be read and get the status unreadable"):
        found = call(rows, tmp_path / "run")
    assert found.counts["unreadable"] == 1
