"""Several inputs as one: of one format and the same columns, their rows one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from instsel.error_text import first_line
from instsel.records.formats import OPTIONAL, listed
from instsel.records.json_columns import is_json, json_array, json_field, plain_field, whole_values
from instsel.records.json_rows import ROW_KEYS
from instsel.runs.row_store import Batch

# A row says what it is by these; any other may be missing from all rows of a JSON file.
_TELLING = ROW_KEYS - {column for columns in OPTIONAL.values() for column in columns}


@dataclass(frozen=True, slots=True)
class InputPart:
    """One file or dataset of an input.

    digest  the digest of its content
    read    its rows in batches, as many as the limit says
    schema  the Arrow types of its columns, where it has some and is not a Parquet file of this name
    lines   on which lines of the file rows of it begin, by their number; none where it has no lines
    """

    name: str
    format: str  # "JSON", "CSV", "Parquet" or "dataset"
    digest: Callable[[], str]
    read: Callable[[int | None], Iterable[Batch]]
    schema: pa.Schema | None = None
    lines: Callable[[Sequence[int]], Mapping[int, int]] = lambda rows: {}

    @property
    def is_arrow(self) -> bool:
        """Whether its batches are Arrow's."""
        return self.format in ("Parquet", "dataset")


def check_formats(parts: Sequence[InputPart]) -> None:
    """ValueError naming two parts that cannot be read into one run."""
    first = parts[0]
    for part in parts[1:]:
        if part.format != first.format and not (part.is_arrow and first.is_arrow):
            raise ValueError(f"{first.name} is {first.format}, {part.name} is {part.format}: give files of one format")


def joined_batches(parts: Sequence[InputPart], limit: int | None) -> Iterator[Batch]:
    """The rows of all parts in order, at most `limit`; ValueError naming two parts whose columns differ.

    Columns of Parquet files and datasets may stand in another order, and their types may be such as fit into one
    (int32 and int64, say). JSON files must agree in the columns that make the format (see `instsel.records.formats`).
    """
    if len(parts) == 1:
        yield from parts[0].read(limit)
        return
    schema = _common_schema(parts) if parts[0].is_arrow else None
    first: set[str] | None = None
    for part in parts:
        checked = False
        for batch in part.read(limit):
            if schema is not None:
                yield _aligned(batch, schema, part)
            else:
                if not checked:
                    names = {name for row in batch for name in row}
                    first = names if first is None else first
                    _check_columns(parts[0], first, part, names)
                    checked = True
                yield batch
            if limit is not None:
                limit -= len(batch)
        if limit == 0:
            return


def row_places(parts: Sequence[InputPart], rows: Sequence[int]) -> dict[int, str]:
    """Where each of these rows is to be found: its file and line, or its number within the file."""
    places: dict[int, str] = {}
    start = 0
    for part in parts:
        count = sum(len(batch) for batch in part.read(None)) if len(parts) > 1 else max(rows, default=0) + 1
        own = [row - start for row in rows if start <= row < start + count]
        lines = part.lines(own) if own else {}
        for row in own:
            where = f"line {lines[row]}" if row in lines else f"row {row} (counting from 0)"
            places[start + row] = f"{part.name}, {where}"
        start += count
        if len(places) == len(rows):
            break
    return places


def _check_columns(one: InputPart, first: set[str], other: InputPart, names: set[str]) -> None:
    compared = _TELLING if one.format == "JSON" and first & _TELLING else first | names
    if (first ^ names) & compared:
        mine, theirs = listed(sorted(first)), listed(sorted(names))
        raise ValueError(f"{one.name} and {other.name} differ: {mine} in the first, {theirs} in the other")


def _common_schema(parts: Sequence[InputPart]) -> pa.Schema:
    schema: pa.Schema | None = None
    for part in parts:
        found = part.schema if part.schema is not None else parquet_schema(part.name)
        plain = pa.schema([plain_field(field) for field in found])
        if schema is None:
            schema = plain
            continue
        _check_columns(parts[0], set(schema.names), part, set(plain.names))
        try:
            schema = pa.schema([_common_field(field, plain.field(field.name)) for field in schema])
        except pa.ArrowException as error:
            reason = first_line(error)
            raise ValueError(f"the columns of {parts[0].name} and {part.name} differ in type: {reason}") from None
    assert schema is not None
    return schema


def _common_field(one: pa.Field, other: pa.Field) -> pa.Field:
    """The field that holds the values of both; JSON text where objects have unlike keys, which would gain null."""
    if is_json(one) or is_json(other) or _unlike_keys(one.type, other.type):
        return json_field(one.name)
    return pa.unify_schemas([pa.schema([one]), pa.schema([other])], promote_options="permissive").field(0)


def _unlike_keys(one: pa.DataType, other: pa.DataType) -> bool:
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        if [part.name for part in one] != [part.name for part in other]:
            return True
    elif one.num_fields != 1 or other.num_fields != 1:
        return False
    pairs = zip(range(one.num_fields), range(other.num_fields), strict=True)
    return any(_unlike_keys(one.field(i).type, other.field(j).type) for i, j in pairs)


def parquet_schema(path: str | Path) -> pa.Schema:
    """The columns of a Parquet file and their types; ValueError where it is none."""
    try:
        return pq.read_schema(path).remove_metadata()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {first_line(error)}") from None


def _aligned(batch: Batch, schema: pa.Schema, part: InputPart) -> pa.Table:
    table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    try:
        table = table.select(schema.names)
        for number, field in enumerate(schema):
            if is_json(field) and not is_json(table.schema.field(number)):
                held = whole_values(table.column(number), table.schema.field(number))
                texts = json_array([... if value is None else value for value in held])
                table = table.set_column(number, field, texts)
        return table.cast(schema)
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"the columns of {part.name} do not fit those of the files before it: {error}") from None
