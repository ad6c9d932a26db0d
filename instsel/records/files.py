"""Reading rows from JSON, JSONL, Parquet and CSV files, compressed or not, in batches that bound the memory.

The format is decided from the content, and from the name where the content does not tell: a ``.json`` file that holds
JSON lines is read as such, a ``.parquet`` file that is not Parquet is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from instsel.records.compression import compression_of, data_suffix, open_bytes
from instsel.records.json_rows import json_rows
from instsel.records.json_types import JsonMapping, JsonObject
from instsel.records.tables import csv_rows, parquet_batches

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
BATCH_BYTES = 8 << 20

SUFFIXES = {
    ".json": "JSON", ".jsonl": "JSON", ".ndjson": "JSON",
    ".parquet": "Parquet", ".pq": "Parquet",
    ".csv": "CSV", ".tsv": "CSV",
}  # fmt: skip
UNREADABLE = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xfe": "not UTF-8 text but UTF-16 or UTF-32; convert it to UTF-8",
    b"\xfe\xff": "not UTF-8 text but UTF-16; convert it to UTF-8",
    b"\x00\x00\xfe\xff": "not UTF-8 text but UTF-32; convert it to UTF-8",
    b"ARROW1": "an Arrow IPC file; save it as Parquet",
}


def read_rows(path: str | Path, *, limit: int | None = None) -> list[JsonObject]:
    """All rows of a file as dicts, at most ``limit``; errors as :func:`iter_batches`."""
    return [row for batch in iter_batches(path, limit=limit) for row in dicts_of(batch)]


def dicts_of(batch: list[JsonObject] | pyarrow.RecordBatch) -> list[JsonObject]:
    """A batch of :func:`iter_batches` as dicts."""
    if isinstance(batch, list):
        return batch
    from instsel.records.json_columns import whole_rows

    return whole_rows(batch)


def iter_batches(
    path: str | Path, *, batch_rows: int = BATCH_ROWS, limit: int | None = None
) -> Iterator[list[JsonObject] | pyarrow.RecordBatch]:
    """The rows of a file in order, in batches: Arrow record batches of a Parquet file, else lists of dicts.

    batch_rows: rows a batch at most; a batch of long rows ends earlier. limit: rows in all. Values of a CSV file are
    text; a JSON key may be missing from some rows.

    Raises FileNotFoundError or IsADirectoryError, and ValueError for a file that has no rows, is not what its name
    says, or is damaged; of text files it names the line.
    """
    path = Path(path)
    kind = file_format(path)
    left = limit
    batches: Iterable[Sequence[JsonMapping]]
    if kind == "Parquet":
        batches = parquet_batches(path, batch_rows, BATCH_BYTES)
    else:
        batches = _batched(json_rows(path) if kind == "JSON" else csv_rows(path), batch_rows, limit)
    empty = True
    for batch in batches:
        if left is not None and left <= len(batch):
            if left:
                yield batch[:left]
            return
        if len(batch):
            empty = False
            yield batch
            left = None if left is None else left - len(batch)
    if empty:
        raise ValueError(f"{path} holds no rows")


def file_format(path: Path) -> str:
    """ "JSON" (an array or lines), "Parquet" or "CSV"; errors as :func:`iter_batches`."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a JSON, JSONL, Parquet or CSV file")
    with open_bytes(path) as file:
        head = file.read(4096)
    if not head:
        raise ValueError(f"{path} is empty")
    named = SUFFIXES.get(data_suffix(path))
    if head.startswith(b"PAR1"):
        if kind := compression_of(path):
            raise ValueError(f"{path} is a Parquet file within {kind}; decompress it (Parquet compresses by itself)")
        return "Parquet"
    if named == "Parquet":
        raise ValueError(f"{path} is not a Parquet file: it does not begin with the bytes PAR1")
    for magic, what in UNREADABLE.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"{") or (start.startswith(b"[") and named != "CSV"):
        return "JSON"
    if named is None:
        raise ValueError(f"{path}: unknown format; the content is neither JSON nor Parquet; name a CSV file .csv")
    return named


Row = TypeVar("Row", bound=JsonMapping)


def _batched(rows: Iterable[tuple[Row, int]], batch_rows: int, limit: int | None) -> Iterator[list[Row]]:
    """Batches of rows that come with their size in bytes; reads no row past the limit."""
    batch: list[Row] = []
    size = 0
    for count, (row, length) in enumerate(rows, 1):
        batch.append(row)
        size += length
        if len(batch) == batch_rows or size >= BATCH_BYTES or count == limit:
            yield batch
            batch, size = [], 0
            if count == limit:
                return
    if batch:
        yield batch
