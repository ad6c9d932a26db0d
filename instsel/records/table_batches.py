"""Batches of a table in whatever form a library gives them: a mapping of columns, or a table of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instsel.records.row_sources import open_rows, plain


def columns_of(batch: object) -> dict[str, list[object]]:
    """The columns of a batch as lists, whatever format the dataset has."""
    if isinstance(batch, Mapping):  # of lists, arrays or tensors
        return {name: plain(batch[name]) for name in batch}
    names, parts = open_rows(batch)
    rows = [row for part in parts for row in part]
    return {name: [row[name] for row in rows] for name in names}


def with_columns(batch: Any, columns: dict[str, list[object]]) -> Any:
    """New columns as `map` takes them: of a table it keeps what it is given back and nothing else."""
    if isinstance(batch, Mapping):
        return columns
    if hasattr(batch, "append_column"):
        for name, values in columns.items():
            batch = batch.append_column(name, [values])
        return batch
    if hasattr(batch, "with_columns"):
        import polars

        return batch.with_columns(polars.Series(name, values, strict=False) for name, values in columns.items())
    return batch.assign(**columns)
