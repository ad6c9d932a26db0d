"""Run folders made by hand: what a command leaves, without a model and with any numbers and texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.score_columns import to_table
from instsel.runs import RunFolder
from instsel.runs.durable_files import digest_file
from instsel.runs.shards import ShardedStage, pack_shard

Compute = Callable[[range], tuple[dict[str, Any], dict[str, float]]]

STATS = {"tokens_forwarded": 1000, "tokens_unshared": 1700, "wall_seconds": 2.5}


def fill(folder: RunFolder, stage: ShardedStage, compute: Compute, step: int = 10) -> None:
    """Compute what a folder lacks of a stage, in shards that end at multiples of `step`."""
    for missing in folder.missing(stage):
        start = missing.start
        while start < missing.stop:
            rows = range(start, min(start // step * step + step, missing.stop))
            columns, stats = compute(rows)
            folder.write(stage, rows, pack_shard(stage.name, folder.shards.settings, rows, columns, stats))
            start = rows.stop


def texts(count: int, *, answer: str = "answer") -> dict[str, list[str]]:
    """Columns of a pool, every row different."""
    return {
        "instruction": [f"ask {row}" for row in range(count)],
        "input": ["" if row % 3 else f"material {row}" for row in range(count)],
        "output": [f"{answer} {row} {'long ' * (row % 7)}" for row in range(count)],
    }


def write_run(
    folder: Path, method: str, pool: Mapping[str, Sequence[Any]], scores: Mapping[str, Any], **manifest: Any
) -> Path:
    """A run of `method` over the columns `pool`, with the columns `scores`; `manifest` overrides what is said of it."""
    folder.mkdir(parents=True)
    table = pa.table(dict(pool))
    for name, column in zip(to_table(scores).column_names, to_table(scores).columns, strict=True):
        table = table.append_column(name if name not in pool else f"instsel_{name}", column)
    pq.write_table(table, folder / "scores.parquet")
    status, counts = np.unique(scores.get("status", np.full(table.num_rows, "ok")), return_counts=True)
    said = {
        "format": 1,
        "version": "0.2.0",
        "method": method,
        "parameters": {},
        "template": "plain",
        "seed": 0,
        "input_digest": "pool",
        "limit": None,
        "model_digest": "model",
        "input": "pool.jsonl",
        "model": "some/model",
        "compared": ["format", "version", "method", "parameters", "template", "seed", "input_digest", "limit"],
        "rows": table.num_rows,
        "columns": list(pool),
        "stages": [],
        "state": "finished",
        "output": {"name": "scores.parquet", "digest": digest_file(folder / "scores.parquet")},
        "counts": dict(zip(status.tolist(), counts.tolist(), strict=True)),
        "stats": STATS,
        "findings": {},
        "score": {"ifd": "ifd", "perplexity": "mean_logprob", "grape": "best"}.get(method, "score"),
    }
    (folder / "manifest.json").write_text(json.dumps({**said, **manifest}), encoding="utf-8")
    return folder


def write_influence(
    folder: Path, count: int, *, pool: Mapping[str, Sequence[Any]] | None = None, **manifest: Any
) -> Path:
    """A run of wici over `count` rows with made-up numbers: row 3 was too long, row 5 had no answer."""
    rng = np.random.default_rng(0)
    score, ifd = rng.normal(size=count), rng.random(count) + 0.3
    status = np.full(count, "ok", "<U13")
    for row, why in ((3, "too_long"), (5, "empty_target")):
        if row < count:
            status[row], score[row], ifd[row] = why, np.nan, np.nan
    columns = {
        "score": score,
        "ifd": ifd,
        "influence": rng.normal(size=(count, 3)),
        "probes": (np.arange(count)[:, None] + [1, 2, 3]) % count,
        "similarity": rng.random((count, 3)),
        "status": status,
    }
    return write_run(folder, "wici", pool or texts(count), columns, **manifest)


def write_selection(folder: Path, run: Path, rows: list[int], **manifest: Any) -> Path:
    """A selection of these rows of a run, best first."""
    table = pq.read_table(run / "scores.parquet").take(pa.array(rows))
    written = write_run(folder, "select", {"row": rows}, {}, parameters={"by": "score", "budget": 0.25}, **manifest)
    pq.write_table(table.append_column("row", pa.array(rows)), written / "scores.parquet")
    said = json.loads((written / "manifest.json").read_text())
    source = json.loads((run / "manifest.json").read_text())
    said["output"]["digest"] = digest_file(written / "scores.parquet")
    said.update(input=str(run / "scores.parquet"), input_digest=source["output"]["digest"], rows=source["rows"])
    (written / "manifest.json").write_text(json.dumps(said))
    return written
