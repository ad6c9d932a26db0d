"""Rows of Parquet and CSV files, a batch or a row at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.error_text import first_line
from instsel.records.compression import data_suffix, open_text
from instsel.records.formats import shortened

if TYPE_CHECKING:
    import pyarrow


def parquet_batches(path: Path, batch_rows: int, batch_bytes: int) -> Iterator[pyarrow.RecordBatch]:
    """The record batches of a Parquet file; ValueError where it is damaged or names a column twice."""
    import pyarrow
    import pyarrow.parquet

    try:
        # pre_buffer, pyarrow's default, would read the whole file into memory.
        options = {"pre_buffer": False, "buffer_size": 1 << 20, "page_checksum_verification": True}
        with pyarrow.parquet.ParquetFile(path, **options) as file:
            check_names(path, file.schema_arrow.names)
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            widest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
            for batch in file.iter_batches(max(1, min(batch_rows, int(batch_bytes / (widest + 1))))):
                batch.validate(full=True)  # text that is not UTF-8 would fail later, in the middle of a run
                yield batch
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {first_line(error)}") from None


def csv_rows(path: Path) -> Iterator[tuple[dict[str, str], int]]:
    """The rows of a CSV file (tabs in a .tsv file), all values as text, each with its length in characters."""
    csv.field_size_limit(2**31 - 1)  # the default would refuse an answer of more than 131,072 characters
    with open_text(path, newline="") as file:
        reader = csv.reader(file, delimiter="\t" if data_suffix(path) == ".tsv" else ",", strict=True)
        try:
            names = next((row for row in reader if row), [])
            check_names(path, names)
            _check_separator(path, names, reader.dialect.delimiter)
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    counts = f"the row has {len(row)} values, the header {len(names)} columns"
                    raise ValueError(f"{path}, line {reader.line_num}: {counts}")
                yield dict(zip(names, row, strict=True)), sum(map(len, row))
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not CSV: {error}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}, after line {reader.line_num}: not UTF-8 text") from None


def _check_separator(path: Path, names: Sequence[str], separator: str) -> None:
    """ValueError for a header of one column that another separator would divide."""
    if len(names) != 1:
        return
    other = next((mark for mark in ";\t|," if mark != separator and mark in names[0]), None)
    if other is not None:
        raise ValueError(
            f"{path}: the header is one column, {shortened(names[0])}, and seems to be separated by {other!r}, where "
            f"{separator!r} is expected; " + ("name the file .tsv" if other == "\t" else "save it with commas, as .csv")
        )


def check_names(path: Path, names: Sequence[str]) -> None:
    """ValueError where a file names a column twice, as runs of earlier versions over a run's result did."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        ours = "; to name ours apart write it anew, a run's result by instsel merge, a selection by its own command"
        hint = ours if twice[0].startswith("instsel_") else ""
        raise ValueError(f"{path} has the column {shortened(twice[0])} {names.count(twice[0])} times{hint}")
