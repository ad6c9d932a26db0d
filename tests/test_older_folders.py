"""Run folders of version 0.1.0: continued where the numbers are the same ones, refused with the reason otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tiny_model import load_models_once, tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.runs.manifest import settings_digest
from instsel.runs.shards import read_info

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
COLUMNS = {
    "ifd": ["direct", "conditional", "ifd", "num_tokens", "status"],
    "grape": ["best", "scores", "status"],
}


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
    older = {name: now[name] for name in (*SETTINGS, *ABOUT)}
    older |= {"version": "0.1.0", "method": method, "parameters": PARAMETERS[method], "compared": list(SETTINGS)}
    older |= {"stages": [[method, 25, 10]], "input_checked": True, "state": "interrupted"}
    (run / "manifest.json").write_text(json.dumps(older))
    (run / "scores.parquet").unlink()
    sorted((run / "shards").glob("*.parquet"))[-1].unlink()
    return older


@pytest.mark.parametrize("method", ["ifd", "grape"])
def test_the_same_settings_are_continued(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)
    run = tmp_path / "run"
    assert main(command(method, tmp_path)) == 0
    whole = pq.read_table(run / "scores.parquet")
    older = made_older(run, method)
    kept = {path: path.read_bytes() for path in (run / "shards").glob("*.parquet")}
    assert len(kept) == 2
    for path in kept:  # a shard belongs to a manifest by the digest of these settings and no others
        assert read_info(path).settings == settings_digest({name: older[name] for name in SETTINGS})
        assert pq.read_schema(path).names == COLUMNS[method]
    assert main(command(method, tmp_path)) == 0
    assert {path: path.read_bytes() for path in kept} == kept, "what was whole was not computed again"
    assert pq.read_table(run / "scores.parquet").equals(whole)


@pytest.mark.parametrize(
    ("method", "reasons"),
    [
        ("score", ["method (score there, perplexity now)"]),
        # Its embeddings were not centred: probes, and with them every score, are others now.
        (
            "wici",
            ["parameters.weight (none there, rule now)", "parameters.neighbors_as_probes (none there, false now)"],
        ),
    ],
)
def test_other_settings_are_refused_and_the_folder_stays(
    method: str,
    reasons: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    load_models_once(monkeypatch)
    run = tmp_path / "run"
    assert main(command(method, tmp_path)) == 0
    made_older(run, method)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    capsys.readouterr()
    assert main(command(method, tmp_path)) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "holds a run with other settings: " in said and "--overwrite" in said
    assert all(reason in said for reason in reasons), said
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before
    assert main([*command(method, tmp_path), "--overwrite"]) == 0, "the control: the command itself is well"
