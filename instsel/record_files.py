"""Reading rows from JSON, JSONL, Parquet and CSV files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_rows(path: str | Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """All rows of a file as dicts, at most ``limit``."""
    rows: list[dict[str, Any]] = []
    for batch in iter_batches(path, limit=limit):
        rows += batch if isinstance(batch, list) else batch.to_pylist()
    return rows


def iter_batches(path: str | Path, *, batch_rows: int = 4096, limit: int | None = None) -> Iterator[Any]:
    """The rows of a file in batches: lists of dicts."""
    with open(path, encoding="utf-8-sig") as file:
        rows = [json.loads(line) for line in file if line.strip()][:limit]
    for start in range(0, len(rows), batch_rows):
        yield rows[start : start + batch_rows]
