"""One file of a run's result: every original column of the input, then the scores, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.json_columns import json_value, whole_rows
from instsel.records.json_types import JsonObject
from instsel.runs.column_names import allot_names, with_names
from instsel.runs.column_types import ColumnTypeError
from instsel.runs.durable_files import durable_file
from instsel.runs.row_store import RowStore

FORMATS = ("parquet", "jsonl")
_ROWS_PER_WRITE = 1024

Tables = Callable[[], Iterable[pa.Table]]


def write_merged(
    directory: Path,
    name: str,
    rows: RowStore,
    scores: Tables,
    *,
    columns: Collection[str],
    mapping: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write `directory/name` (.parquet or .jsonl) from the rows and the tables of their scores, a table at a time.

    scores: gives the tables anew at each call, together one row of scores per row. columns: the original columns.
    mapping: of fields to columns, where the columns of prompts and answers have other than their usual names.
    Gives the name in the file of each score column, as `allot_names` finds it.
    """
    own: dict[str, str] = {}
    if name.endswith(".jsonl"):
        with durable_file(directory, name) as file:
            for start, table in _pieces(scores()):
                own = own or allot_names(table.column_names, columns)
                scored = _renamed(table, own).to_pylist()
                for row, score in zip(rows.rows(start, start + table.num_rows), scored, strict=True):
                    _write_json_line(file, {**row, **score})
        return own
    types = rows.column_types((mapping or {}).values())
    while True:
        try:
            with durable_file(directory, name) as file:
                writer: pq.ParquetWriter | None = None
                for start, table in _pieces(scores()):
                    own = own or allot_names(table.column_names, columns)
                    original = rows.table(start, start + table.num_rows, types)
                    joined = _beside(original, _renamed(table, own), own)
                    writer = writer or pq.ParquetWriter(file, joined.schema, compression="zstd")
                    writer.write_table(joined)
                if writer is None:
                    writer = pq.ParquetWriter(file, rows.schema(types))
                writer.close()
            return own
        except ColumnTypeError as error:
            assert types is not None
            types.keep_as_text(error.name)


def write_table(directory: Path, name: str, table: pa.Table, own: Mapping[str, str]) -> None:
    """Write a table as `directory/name` (.parquet or .jsonl); `own` as `write_merged` gives it."""
    with durable_file(directory, name) as file:
        if name.endswith(".jsonl"):
            for row in whole_rows(table):
                _write_json_line(file, row)
        else:
            named = table.replace_schema_metadata(with_names(table.schema, own).metadata)
            pq.write_table(named, file, compression="zstd")


def _pieces(tables: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """The tables cut to a size that bounds memory, each with the number of its first row."""
    start = 0
    for table in tables:
        for offset in range(0, table.num_rows, _ROWS_PER_WRITE):
            piece = table.slice(offset, _ROWS_PER_WRITE)
            yield start, piece
            start += piece.num_rows


def _renamed(table: pa.Table, own: Mapping[str, str]) -> pa.Table:
    return table.rename_columns([own[name] for name in table.column_names])


def _beside(original: pa.Table, scores: pa.Table, own: Mapping[str, str]) -> pa.Table:
    schema = with_names(pa.schema([*original.schema, *scores.schema]), own)
    return pa.Table.from_arrays([*original.columns, *scores.columns], schema=schema)


def _write_json_line(file: BinaryIO, row: JsonObject) -> None:
    file.write(json.dumps(row, ensure_ascii=False, default=json_value).encode("utf-8", "replace") + b"\n")
