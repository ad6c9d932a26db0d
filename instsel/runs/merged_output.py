"""One file of a run's result: every original column of the input, then the scores, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.json_columns import json_value, whole_rows
from instsel.runs.column_types import ColumnTypeError
from instsel.runs.durable_files import durable_file
from instsel.runs.row_store import RowStore

FORMATS = ("parquet", "jsonl")
CLASH_PREFIX = "instsel_"
_ROWS_PER_WRITE = 1024

Tables = Callable[[], Iterable[pa.Table]]


def write_merged(directory: Path, name: str, rows: RowStore, scores: Tables, *, columns: Iterable[str]) -> None:
    """Write `directory/name` (.parquet or .jsonl) from the rows and the tables of their scores, a table at a time.

    scores: gives the tables anew at each call, together one row of scores per row. columns: the original columns; a
    score column of the same name is called `instsel_NAME`.
    """
    taken = set(columns)
    if name.endswith(".jsonl"):
        with durable_file(directory, name) as file:
            for start, table in _pieces(scores()):
                _write_json_lines(file, rows.rows(start, start + table.num_rows), _renamed(table, taken))
        return
    types = rows.column_types()
    while True:
        try:
            with durable_file(directory, name) as file:
                writer: pq.ParquetWriter | None = None
                for start, table in _pieces(scores()):
                    original = rows.table(start, start + table.num_rows, types)
                    joined = _beside(original, _renamed(table, taken))
                    writer = writer or pq.ParquetWriter(file, joined.schema, compression="zstd")
                    writer.write_table(joined)
                if writer is None:
                    writer = pq.ParquetWriter(file, rows.schema(types))
                writer.close()
            return
        except ColumnTypeError as error:
            assert types is not None
            types.keep_as_text(error.name)


def write_table(directory: Path, name: str, table: pa.Table) -> None:
    """Write a table as `directory/name` (.parquet or .jsonl)."""
    with durable_file(directory, name) as file:
        if name.endswith(".jsonl"):
            for row in whole_rows(table):
                _write_json_line(file, row)
        else:
            pq.write_table(table, file, compression="zstd")


def score_names(table_columns: Iterable[str], original: Iterable[str]) -> dict[str, str]:
    """The name in the merged file of each score column."""
    taken = set(original)
    return {name: CLASH_PREFIX + name if name in taken else name for name in table_columns}


def _pieces(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """The tables cut to a size that bounds memory, each with the number of its first row."""
    start = 0
    for table in tables:
        for offset in range(0, table.num_rows, _ROWS_PER_WRITE):
            piece = table.slice(offset, _ROWS_PER_WRITE)
            yield start, piece
            start += piece.num_rows


def _renamed(table: pa.Table, taken: set[str]) -> pa.Table:
    return table.rename_columns(list(score_names(table.column_names, taken).values()))


def _beside(original: pa.Table, scores: pa.Table) -> pa.Table:
    schema = pa.schema([*original.schema, *scores.schema])
    return pa.Table.from_arrays([*original.columns, *scores.columns], schema=schema)


def _write_json_lines(file: BinaryIO, rows: list[dict[str, Any]], scores: pa.Table) -> None:
    for row, score in zip(rows, scores.to_pylist(), strict=True):
        _write_json_line(file, {**row, **score})


def _write_json_line(file: BinaryIO, row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, default=json_value).encode("utf-8", "replace") + b"\n")
