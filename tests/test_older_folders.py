"""Run folders of version 0.1.0: an unfinished one is refused with the reason, a finished one can be selected from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

import instsel
from instsel.cli import main

# What a manifest of 0.1.0 holds; all that it knows of a method is its name, these parameters and one shard a slice.
SETTINGS = (
    "format", "version", "method", "parameters", "template", "seed", "input_digest", "column_mapping", "limit",
    "model_digest", "tokenizer_digest", "dtype", "device", "backend", "max_batch_tokens", "max_length", "shard_rows",
)  # fmt: skip
ABOUT = ("created", "input", "model", "model_revision", "model_files", "environment", "rows", "columns", "resolved")
PARAMETERS: dict[str, dict[str, Any]] = {
    "score": {},
    "ifd": {"kind": "ppl"},
    "grape": {"normalize": "mean", "include_eos": False},
    "wici": {
        "rule": "paper", "num_neighbors": 32, "num_probes": 5, "probes": None, "similarity": None, "embedder": None,
        "complexity": "length", "complexity_model": None, "cut_demonstration": False,
    },
}  # fmt: skip


def command(method: str, folder: Path) -> list[str]:
    rows = write_alpaca(folder / "rows.jsonl", 25)
    if method == "grape":
        groups = [
            {"instruction": f"say {i}", "candidates": [{"response": "the thing"}, {"response": f"a king {i}"}]}
            for i in range(25)
        ]
        rows.write_text("".join(json.dumps(group) + "\n" for group in groups))
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32"]
    return [method, str(rows), *model, "--output", str(folder / "run"), "--shard-rows", "10", "--quiet"]


def made_older(run: Path, method: str) -> dict[str, Any]:
    """Give a folder the manifest that 0.1.0 would have written when it was interrupted before the last shard."""
    now = json.loads((run / "manifest.json").read_text())
    older = {name: {**now, "shard_rows": 10}[name] for name in (*SETTINGS, *ABOUT)}
    older |= {"version": "0.1.0", "method": method, "parameters": PARAMETERS[method], "compared": list(SETTINGS)}
    older |= {"stages": [[method, 25, 10]], "input_checked": True, "state": "interrupted"}
    (run / "manifest.json").write_text(json.dumps(older))
    (run / "scores.parquet").unlink()
    sorted((run / "shards").glob("*.parquet"))[-1].unlink()
    return older


@pytest.mark.long
@pytest.mark.parametrize("method", PARAMETERS)
def test_it_is_refused_by_its_version_and_stays(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kernels and definitions changed: shards of both versions in one column would be numbers of two kinds."""
    load_models_once(monkeypatch)
    run = tmp_path / "run"
    assert main(command(method, tmp_path)) == 0
    made_older(run, method)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    capsys.readouterr()
    assert main(command(method, tmp_path)) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "holds a run with other settings: " in said and "--overwrite" in said
    assert f"version (0.1.0 there, {instsel.__version__} now)" in said
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    assert main([*command(method, tmp_path), "--overwrite"]) == 0, "the control: the command itself is well"


@pytest.mark.parametrize("before", [{"unreadable": {"rows": 20}}, {"not_in_prompt": {}}, {}])
def test_shards_of_another_reading_are_not_continued(
    before: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows with tools were refused once, or lost their calls: shards of both would not say what was asked."""
    load_models_once(monkeypatch)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [{"role": "user", "content": "add 1"}, {"role": "assistant", "content": "", "tool_calls": [call]},
             {"role": "tool", "content": "2"}, {"role": "assistant", "content": "it is 2"}]  # fmt: skip
    rows, run = tmp_path / "rows.jsonl", tmp_path / "run"
    rows.write_text("".join(json.dumps({"messages": turns[:1] + turns[k:]}) + "\n" for k in (1, 3)) * 10)
    told = ["perplexity", str(rows), "--model", tiny_model_folder(), "--output", str(run), "--shard-rows", "10",
            "--max-failures", "100%", "--quiet"]  # fmt: skip
    assert main(told) == 0
    whole = pq.read_table(run / "scores.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["read_by"]
    (run / "manifest.json").write_text(json.dumps(manifest | {"state": "interrupted"} | before))
    (run / "scores.parquet").unlink()
    sorted((run / "shards").glob("*.parquet"))[-1].unlink()
    capsys.readouterr()
    if before:
        assert main(told) == 2
        said = capsys.readouterr().err.strip()
        assert "Traceback" not in said and "reads rows differently" in said.splitlines()[-1]
    else:  # the control: where nothing reads differently it goes on
        assert main(told) == 0
        assert pq.read_table(run / "scores.parquet").equals(whole)


@pytest.mark.long
@pytest.mark.parametrize("method", ["ifd", "wici"])
def test_a_finished_one_can_still_be_selected_from(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_models_once(monkeypatch)
    run = tmp_path / "run"
    assert main(command(method, tmp_path)) == 0
    finished = json.loads((run / "manifest.json").read_text())
    kept = {name: finished[name] for name in ("output", "counts", "stats", "findings")}
    older = (
        {name: {**finished, "shard_rows": 10}[name] for name in (*SETTINGS, *ABOUT)}
        | kept
        | {"version": "0.1.0", "state": "finished"}
    )
    older |= {"parameters": PARAMETERS[method], "compared": list(SETTINGS), "stages": [[method, 25, 10]]}
    (run / "manifest.json").write_text(json.dumps(older))
    assert main(["select", str(run), "--output", str(tmp_path / "chosen"), "--budget", "3", "--quiet"]) == 0
    assert len(pq.read_table(tmp_path / "chosen" / "selected.parquet")) == 3
