"""Arrow types for columns of JSON rows, found over all rows: Parquet wants one type a column, JSON promises none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

_EXACT_IN_FLOAT = 2**53
MAX_DEPTH = 16  # a value nested deeper is written as JSON text: Parquet readers recurse over types

Rows = Sequence[Mapping[str, Any]]


class ColumnTypeError(Exception):
    """A value does not have the type that its column was given; `name` is the column's."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ColumnTypes:
    """The columns of JSON rows in the order seen, each with an Arrow type that holds every value exactly.

    A column whose values share no such type (numbers here, text there; integers beyond 64 bits; a struct without
    fields) is kept as JSON text.

    >>> types = ColumnTypes([[{"id": 1, "text": "a"}, {"id": "two"}]])
    >>> types.table([{"id": 1, "text": "a"}, {"id": "two"}]).to_pylist()
    [{'id': '1', 'text': 'a'}, {'id': '"two"', 'text': None}]
    """

    def __init__(self, batches: Iterable[Rows] = ()) -> None:
        self._types: dict[str, pa.DataType | None] = {}  # None: JSON text
        self._beyond_float: set[str] = set()  # integer columns with values that float64 would round
        for batch in batches:
            self.add(batch)

    def add(self, rows: Rows) -> None:
        """Widen the types so that they hold these rows as well."""
        for name in dict.fromkeys(name for row in rows for name in row):
            values = [row.get(name) for row in rows]
            found, known = _type_of(values), self._types.get(name, pa.null())
            if found == pa.int64() and any(abs(value) > _EXACT_IN_FLOAT for value in values if value is not None):
                self._beyond_float.add(name)
            if found is None or known is None:
                self._types[name] = None
            elif {found, known} == {pa.int64(), pa.float64()}:
                self._types[name] = None if name in self._beyond_float else pa.float64()
            else:
                self._types[name] = _widened(known, found)

    def keep_as_text(self, name: str) -> None:
        """Keep a column as JSON text from now on."""
        self._types[name] = None

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, pa.string() if kind is None else kind) for name, kind in self._types.items()])

    def table(self, rows: Rows) -> pa.Table:
        """The rows as a table; a row that lacks a column has null there.

        Raises ColumnTypeError for a value that no row seen by `add` led to expect.
        """
        columns = []
        for name, kind in self._types.items():
            values = [row.get(name) for row in rows]
            if kind is None:
                texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
                columns.append(pa.array(texts, pa.string()))
            else:
                try:
                    columns.append(pa.array(values, kind))
                except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                    raise ColumnTypeError(name) from error
        return pa.Table.from_arrays(columns, schema=self.schema)


def _type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The Arrow type that holds the values exactly, or None."""
    if any(isinstance(value, (dict, list)) and _too_deep(value, MAX_DEPTH) for value in values):
        return None
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return kind if _storable(kind) else None


def _widened(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other:
        return one
    if _has_float(one) != _has_float(other) and not (pa.types.is_null(one) or pa.types.is_null(other)):
        return None  # an integer inside a list or struct that becomes a float could lose digits
    try:
        fields = [pa.schema([pa.field("value", kind)]) for kind in (one, other)]
        return pa.unify_schemas(fields, promote_options="permissive").field("value").type
    except pa.ArrowException:
        return None


def _has_float(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or any(_has_float(kind.field(i).type) for i in range(kind.num_fields))


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no struct without fields."""
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return False
    return all(_storable(kind.field(i).type) for i in range(kind.num_fields))


def _too_deep(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    if depth == 0:
        return True
    return any(_too_deep(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
