"""Files with scores in them, as a run wrote them or as others did: one column at a time, single rows by number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from instsel.records.files import dicts_of, iter_batches
from instsel.records.json_columns import empty_table, is_json, json_field, take_rows, whole_values
from instsel.records.json_types import JsonObject
from instsel.records.tables import check_names
from instsel.runs.column_names import names_within
from instsel.runs.column_types import ColumnTypes


class ScoredFile:
    """A Parquet file, or any other format that instsel reads, whose rows hold scores.

    `own` has the name in the file of each column that instsel added. A Parquet file that a run wrote knows them; of
    a file of which nothing is known they are all columns, each by its name.

    Raises ValueError or OSError where the file cannot be read or has a column twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parquet: pq.ParquetFile | None = None
        with open(path, "rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if is_parquet:
            try:
                self._parquet = pq.ParquetFile(path)
            except pa.ArrowException as error:
                raise ValueError(f"{path} is not a whole Parquet file: {error}") from error
            self.columns = list(self._parquet.schema_arrow.names)
            check_names(path, self.columns)
            own = names_within(self._parquet.schema_arrow)
        else:
            names = dict.fromkeys(name for rows in self._batches() for row in rows for name in row)
            self.columns, own = list(names), None
        self.own = {name: name for name in self.columns} if own is None else own

    def find(self, name: str) -> str | None:
        """The column that a name means: our own of this name, or else the file's; None where there is neither."""
        return self.own.get(name, name if name in self.columns else None)

    def named(self, column: str) -> str:
        """A column by our name for it, where it is ours; `find` undoes it."""
        return next((name for name, found in self.own.items() if found == column), column)

    def numbers(self, name: str) -> np.ndarray:
        """A column as float64 [rows], null as NaN; ValueError where it holds something else than numbers."""
        values: list[np.ndarray] = []
        for column in self._column(name):
            try:
                if self._is_json(name):
                    column = self._plain(name, column)
                if pa.types.is_null(column.type):
                    column = column.cast(pa.float64())
                if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
                    raise ValueError(f"column {name!r} of {self.path} holds {column.type}, not numbers")
                values.append(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False))
            except pa.ArrowException as error:
                raise ValueError(f"column {name!r} of {self.path} does not hold numbers: {error}") from error
        return np.concatenate(values) if values else np.zeros(0)

    def equals(self, name: str, wanted: str | int) -> np.ndarray:
        """Whether each row's column is this text, number or truth value, bool [rows]."""
        return np.array([value == wanted for value in self.values(name)], dtype=bool)

    def values(self, name: str) -> list[Any]:
        """A column as Python's values, null as None."""
        return [value for piece in self.pieces(name) for value in piece]

    def pieces(self, name: str) -> Iterator[list[Any]]:
        """The same piece by piece, for a column that need not be held whole."""
        field = None if self._parquet is None else self._parquet.schema_arrow.field(name)
        for column in self._column(name):
            yield column.to_pylist() if field is None else whole_values(column, field)

    def labels(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A column as numbers int64 [rows] of its distinct values, and these values' texts in order of appearance."""
        known: dict[str, int] = {}
        numbers: list[np.ndarray] = []
        for column in self._column(name):
            if self._is_json(name):
                column = self._plain(name, column)
            if pa.types.is_nested(column.type):
                raise ValueError(f"column {name!r} of {self.path} holds {column.type}, not labels")
            found = column.dictionary_encode()
            texts = ["none" if value is None else str(value) for value in [*found.dictionary.to_pylist(), None]]
            places = found.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)
            used = np.zeros(len(texts), bool)
            used[places] = True
            code = [
                known.setdefault(text, len(known)) if is_used else 0 for text, is_used in zip(texts, used, strict=True)
            ]
            numbers.append(np.array(code, np.int64)[places])
        return (np.concatenate(numbers) if numbers else np.zeros(0, np.int64)), list(known)

    def lists(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A column of lists of numbers, piece by piece: the numbers float64, null as NaN, and the lists' lengths."""
        for column in self._column(name):
            column = column.cast(pa.list_(pa.float64()))
            lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            yield column.flatten().fill_null(np.nan).to_numpy(zero_copy_only=False), lengths

    def kinds(self) -> dict[str, pa.DataType]:
        """The Arrow type of each column; in a file of another format than Parquet, of its first rows."""
        if self._parquet is not None:
            return {field.name: field.type for field in self._parquet.schema_arrow}
        schema = ColumnTypes([next(self._batches(), [])]).schema
        return {name: schema.field(name).type if name in schema.names else pa.null() for name in self.columns}

    def take(self, numbers: np.ndarray, columns: Sequence[str] | None = None, texts: Iterable[str] = ()) -> pa.Table:
        """The rows with these numbers, in the order given; all columns, or those named; `texts` as of `ColumnTypes`."""
        sorted_numbers = np.sort(numbers)
        if self._parquet is None:
            rows: list[JsonObject] = []
            first = 0
            for batch in self._batches():
                low, high = np.searchsorted(sorted_numbers, [first, first + len(batch)])
                rows += [batch[number - first] for number in sorted_numbers[low:high]]
                first += len(batch)
            rows = rows if columns is None else [{name: row.get(name) for name in columns} for row in rows]
            found = ColumnTypes([rows], texts).table(rows)
        else:
            wanted = None if columns is None else list(columns)
            empty = empty_table(self._parquet.schema_arrow)
            pieces = [empty if wanted is None else empty.select(wanted)]
            first = 0
            for batch in self._parquet.iter_batches(columns=wanted):
                low, high = np.searchsorted(sorted_numbers, [first, first + len(batch)])
                if low == high:
                    first += len(batch)
                    continue
                pieces.append(take_rows(pa.Table.from_batches([batch]), pa.array(sorted_numbers[low:high] - first)))
                first += len(batch)
            found = pa.concat_tables(pieces)
        return take_rows(found, pa.array(np.searchsorted(sorted_numbers, numbers)))

    def _is_json(self, name: str) -> bool:
        return self._parquet is not None and is_json(self._parquet.schema_arrow.field(name))

    def _plain(self, name: str, column: pa.Array) -> pa.Array:
        """A piece of a column of JSON text as what the text stands for; ValueError where that has no type."""
        try:
            return pa.array(whole_values(column, json_field(name)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"column {name!r} of {self.path} holds values of several types") from error

    def _batches(self) -> Iterator[list[JsonObject]]:
        for batch in iter_batches(self.path):
            yield dicts_of(batch)

    def _column(self, name: str) -> Iterator[pa.Array]:
        if self._parquet is not None:
            for batch in self._parquet.iter_batches(columns=[name]):
                yield batch.column(0)
        else:
            for rows in self._batches():
                try:
                    yield pa.array([row.get(name) for row in rows])
                except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                    raise ValueError(f"column {name!r} of {self.path} holds values of several types") from error
