"""The input's rows on the disk: read once, kept as they came, read again by number without holding them in memory.

Rows of text files are dicts whose values may have any type in any row, so each is kept as its JSON text. Rows of Arrow
sources (Parquet, Hugging Face datasets) keep their Arrow types. Both lie in an Arrow IPC file of small batches, because
a probe is a single row anywhere in the file.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Union

import pyarrow as pa

from instsel.records.json_columns import plain_field, whole_rows
from instsel.records.json_types import JsonMapping, JsonObject
from instsel.runs.column_types import ColumnTypes

BATCH_ROWS = 128
BATCH_CHARACTERS = 1 << 23  # a batch of huge rows ends earlier
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")  # no UTF-8 holds them
_JSON_ROW = pa.schema([pa.field("row", pa.large_string())], metadata={"instsel": "json rows"})

Batch = Union[pa.RecordBatch, pa.Table, Sequence[JsonMapping]]  # noqa: UP007 - evaluated at run time


def write_rows(sink: BinaryIO, batches: Iterable[Batch]) -> tuple[int, list[str]]:
    """Write batches of rows, all Arrow or all dicts, as an Arrow IPC file.

    Returns the number of rows and the names of their columns in the order of first appearance.
    """
    batches = iter(batches)
    first: Batch = next(batches, [])
    pieces = _arrow_pieces if isinstance(first, (pa.RecordBatch, pa.Table)) else _json_pieces
    writer, count = None, 0
    names: dict[str, None] = {}
    for piece in pieces(itertools.chain([first], batches), names):
        if writer is None:
            writer = pa.ipc.new_file(sink, piece.schema)
        writer.write_batch(piece)
        count += piece.num_rows
    (writer or pa.ipc.new_file(sink, _JSON_ROW)).close()
    return count, list(names)


def _json_pieces(batches: Iterable[Sequence[JsonMapping]], names: dict[str, None]) -> Iterator[pa.RecordBatch]:
    texts: list[str] = []
    characters = 0
    for row in itertools.chain.from_iterable(batches):
        names.update(dict.fromkeys(row))
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)
        texts.append(_LONE_SURROGATES.sub("\ufffd", text))
        characters += len(texts[-1])
        if len(texts) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield pa.record_batch([pa.array(texts, pa.large_string())], schema=_JSON_ROW)
            texts, characters = [], 0
    if texts:
        yield pa.record_batch([pa.array(texts, pa.large_string())], schema=_JSON_ROW)


def _arrow_pieces(batches: Iterable[pa.RecordBatch | pa.Table], names: dict[str, None]) -> Iterator[pa.RecordBatch]:
    schema: pa.Schema | None = None
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        schema = schema or pa.schema([plain_field(field) for field in table.schema])
        table = table.cast(schema)
        names.update(dict.fromkeys(schema.names))
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield from table.slice(start, BATCH_ROWS).combine_chunks().to_batches()


class RowStore:
    """Rows by number from a file of `write_rows`; reading touches only the batches asked for."""

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as mapped:  # counting through a map touches no row
            reader = pa.ipc.open_file(mapped)
            sizes = (reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
            self._starts = [0, *itertools.accumulate(sizes)]
        self.path = path
        self._file = pa.OSFile(str(path))  # not a map: rows once read would count as resident memory
        self._reader = pa.ipc.open_file(self._file)
        self.holds_json = self._reader.schema.metadata == _JSON_ROW.metadata

    def __len__(self) -> int:
        return self._starts[-1]

    def close(self) -> None:
        self._file.close()

    def rows(self, start: int, stop: int) -> list[JsonObject]:
        """Rows start to stop as dicts."""
        return [row for batch in self._batches(start, stop) for row in self._dicts(batch)]

    def take(self, numbers: Iterable[int]) -> list[JsonObject]:
        """The rows with these numbers, in the order given."""
        wanted = list(numbers)
        found: dict[int, JsonObject] = {}
        for _, group in itertools.groupby(sorted(set(wanted)), key=self._batch_of):
            members = list(group)
            index = self._batch_of(members[0])
            batch = self._reader.get_batch(index)
            for number in members:
                found[number] = self._dicts(batch.slice(number - self._starts[index], 1))[0]
        return [found[number] for number in wanted]

    def column_types(self, texts: Iterable[str] = ()) -> ColumnTypes | None:
        """Types for the columns of JSON rows, found over all rows; None where the rows have their Arrow types."""
        if not self.holds_json:
            return None
        step = 8 * BATCH_ROWS
        return ColumnTypes((self.rows(i, i + step) for i in range(0, len(self), step)), texts)

    def schema(self, types: ColumnTypes | None) -> pa.Schema:
        """The original columns and their types."""
        return self._reader.schema.remove_metadata() if types is None else types.schema

    def table(self, start: int, stop: int, types: ColumnTypes | None) -> pa.Table:
        """Rows start to stop with their original columns; `types` as `column_types` gave them."""
        if types is None:
            return pa.Table.from_batches(self._batches(start, stop), self._reader.schema).replace_schema_metadata(None)
        return types.table(self.rows(start, stop))

    def _batch_of(self, number: int) -> int:
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return bisect.bisect_right(self._starts, number) - 1

    def _batches(self, start: int, stop: int) -> list[pa.RecordBatch]:
        stop = min(stop, len(self))
        if start >= stop:
            return []
        batches = []
        for index in range(self._batch_of(start), self._batch_of(stop - 1) + 1):
            first = self._starts[index]
            batch = self._reader.get_batch(index)
            batches.append(
                batch.slice(max(start - first, 0), min(stop - first, batch.num_rows) - max(start - first, 0))
            )
        return batches

    def _dicts(self, batch: pa.RecordBatch) -> list[JsonObject]:
        if self.holds_json:
            return [json.loads(text) for text in batch.column(0).to_pylist()]
        return whole_rows(batch)
