"""Arrow types for columns of JSON rows, found over all rows: Parquet wants one type a column, JSON promises none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from instsel.records.json_columns import json_array, json_field, plain_field_with_missing
from instsel.records.json_rows import ROW_KEYS
from instsel.records.json_types import JsonMapping

_EXACT_IN_FLOAT = 2**53
_INT64 = range(-(2**63), 2**63)
_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), float: pa.float64(), str: pa.string()}
MAX_DEPTH = 16  # a value nested deeper is written as JSON text: Parquet readers recurse over types

Rows = Sequence[JsonMapping]


class ColumnTypeError(Exception):
    """A value does not have the type that its column was given; `name` is the column's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(slots=True)
class _Column:
    kind: pa.DataType | None  # None: JSON text
    present: int = 0  # rows that have the key
    nulls: int = 0  # of them those with null
    whole: bool = False  # holds integers that float64 would round, or write with a fraction where they are a text


class ColumnTypes:
    """The columns of JSON rows in the order seen, each with an Arrow type that gives every value back as it was.

    A column whose values share no such type (numbers here, text there; objects of unlike keys; integers beyond 64 bits;
    an object without keys; null in one row and no such key in another) is kept as JSON text. Integers beside other
    numbers are float64, but in `texts`: the columns of prompts and answers, of which 6 is another text than 6.0.

    >>> types = ColumnTypes([[{"id": 1, "text": "a"}, {"id": "two"}]])
    >>> types.table([{"id": 1, "text": "a"}, {"id": "two"}]).to_pylist()
    [{'id': '1', 'text': 'a'}, {'id': '"two"', 'text': None}]
    """

    def __init__(self, batches: Iterable[Rows] = (), texts: Iterable[str] = ()) -> None:
        self._texts = {*ROW_KEYS, *texts}
        self._columns: dict[str, _Column] = {}
        self._rows = 0
        for batch in batches:
            self.add(batch)

    def add(self, rows: Rows) -> None:
        """Widen the types so that they hold these rows as well."""
        self._rows += len(rows)
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row[name] for row in rows if name in row]
            column = self._columns.setdefault(name, _Column(pa.null()))
            column.present += len(values)
            column.nulls += sum(value is None for value in values)
            least = -1 if name in self._texts else _EXACT_IN_FLOAT
            column.whole |= any(type(value) is int and abs(value) > least for value in values)
            column.kind = _widened(column.kind, _top_type(values))
            if column.kind == pa.float64() and column.whole:
                column.kind = None

    def keep_as_text(self, name: str) -> None:
        """Keep a column as JSON text from now on."""
        self._columns[name].kind = None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([self._field(name) for name in self._columns])

    def table(self, rows: Rows) -> pa.Table:
        """The rows as a table; a row that lacks a column has null there.

        Raises ColumnTypeError for a value that no row seen by `add` led to expect.
        """
        columns = []
        for name in self._columns:
            if self._is_text(name):
                # Null and the missing key, where both occur, are told apart by the text `null`.
                null = None if self._has_missing(name) else ...
                held = [row.get(name, ...) for row in rows]
                columns.append(json_array([null if value is None else value for value in held]))
                continue
            try:
                columns.append(pa.array([row.get(name) for row in rows], self._columns[name].kind))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise ColumnTypeError(name) from error
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _field(self, name: str) -> pa.Field:
        if self._is_text(name):
            return json_field(name, has_missing=self._has_missing(name))
        kind = self._columns[name].kind
        return plain_field_with_missing(name, kind) if self._has_missing(name) else pa.field(name, kind)

    def _is_text(self, name: str) -> bool:
        column = self._columns[name]
        return column.kind is None or (column.nulls > 0 and self._has_missing(name))

    def _has_missing(self, name: str) -> bool:
        return self._columns[name].present < self._rows


def _top_type(values: Sequence[object]) -> pa.DataType | None:
    """The type of a column's values; integers beside other numbers are float64 here, where none is rounded."""
    if {type(value) for value in values if value is not None} == {int, float}:
        exact = all(type(value) is not int or abs(value) <= _EXACT_IN_FLOAT for value in values)
        return pa.float64() if exact else None
    return _type_of(values, MAX_DEPTH)


def _type_of(values: Sequence[Any], depth: int) -> pa.DataType | None:
    """The Arrow type that gives the values back as they are, keys and their order with them, or None."""
    held = [value for value in values if value is not None]
    kinds = {type(value) for value in held}
    if not kinds:
        return pa.null()
    kind = kinds.pop()
    if kinds:
        return None
    if kind is int:
        return pa.int64() if all(value in _INT64 for value in held) else None
    if kind in _SCALARS:
        return _SCALARS[kind]
    if depth == 0:
        return None
    if kind is list:
        inner = _type_of([item for value in held for item in value], depth - 1)
        return None if inner is None else pa.list_(inner)
    if kind is not dict or not held[0]:  # Parquet has no struct without fields
        return None
    keys = list(held[0])
    if any(list(value) != keys for value in held):
        return None
    fields = [(key, _type_of([value[key] for value in held], depth - 1)) for key in keys]
    return None if any(inner is None for _, inner in fields) else pa.struct(fields)


def _widened(one: pa.DataType | None, other: pa.DataType | None, *, top: bool = True) -> pa.DataType | None:
    """The type that holds the values of both exactly, or None."""
    if one is None or other is None:
        return None
    if pa.types.is_null(one) or one == other:
        return other
    if pa.types.is_null(other):
        return one
    if top and {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = _widened(one.value_type, other.value_type, top=False)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = list(zip(one, other, strict=False))
        if one.num_fields != other.num_fields or any(mine.name != theirs.name for mine, theirs in fields):
            return None
        inners = [(mine.name, _widened(mine.type, theirs.type, top=False)) for mine, theirs in fields]
        return None if any(inner is None for _, inner in inners) else pa.struct(inners)
    return None
