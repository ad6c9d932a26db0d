"""Columns of JSON text in Arrow tables, and the rows that they stand for.

A column of JSON text has the canonical extension type `arrow.json`, as the `Json` feature of Hugging Face datasets has.
A column whose null stands for a key that the row does not have says so in its field's metadata.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pyarrow as pa

from instsel.records.json_rows import DECODER
from instsel.records.json_types import JsonObject

_EXTENSION = {b"ARROW:extension:name": b"arrow.json", b"ARROW:extension:metadata": b""}
_MISSING = {b"instsel:null": b"missing key"}
# Before pyarrow 19 the extension type is text whose field carries the extension's name.
JSON_TEXT: pa.DataType = pa.json_(pa.string()) if hasattr(pa, "json_") else pa.string()


def json_field(name: str, *, has_missing: bool = False) -> pa.Field:
    """A field of JSON text; with `has_missing` its null stands for a missing key, and the text `null` for null."""
    metadata = {} if isinstance(JSON_TEXT, pa.BaseExtensionType) else _EXTENSION
    return pa.field(name, JSON_TEXT, metadata={**metadata, **(_MISSING if has_missing else {})} or None)


def plain_field_with_missing(name: str, kind: pa.DataType) -> pa.Field:
    """A field of another type whose null stands for a missing key."""
    return pa.field(name, kind, metadata=_MISSING)


def json_array(values: Iterable[object]) -> pa.Array:
    """Values as JSON text, for a field of `json_field`; `...` is a null of the array."""
    texts = [None if value is ... else json.dumps(value, ensure_ascii=False, default=json_value) for value in values]
    storage = pa.array(texts, pa.string())
    if isinstance(JSON_TEXT, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(JSON_TEXT, storage)
    return storage


def json_value(value: object) -> str:
    """What JSON has no word for, as text: bytes in base64, dates, decimals."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def is_json(field: pa.Field) -> bool:
    """Whether a field holds JSON text and says so."""
    metadata = field.metadata or {}
    return (
        getattr(field.type, "extension_name", None) == "arrow.json"
        or metadata.get(b"ARROW:extension:name") == b"arrow.json"
    )


def whole_rows(table: pa.Table | pa.RecordBatch) -> list[JsonObject]:
    """The rows with JSON text read, and without the keys that a row did not have.

    >>> fields = [json_field("x", has_missing=True)]
    >>> whole_rows(pa.table([json_array([{"a": 1}, None, ...])], schema=pa.schema(fields)))
    [{'x': {'a': 1}}, {'x': None}, {}]
    """
    readers = [_reader(field) for field in table.schema]
    optional = [(field.metadata or {}).items() >= _MISSING.items() for field in table.schema]
    if not any(readers) and not any(optional):
        rows: list[JsonObject] = table.to_pylist()
        return rows
    columns = []
    for column, read, has_missing in zip(table.columns, readers, optional, strict=True):
        values: list[object] = column.to_pylist()
        absent = ... if has_missing else None
        columns.append([absent if v is None else v if read is None else read(v) for v in values])
    names = table.schema.names
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not ...}
        for row in zip(*columns, strict=True)
    ]


def whole_values(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> list[object]:
    """A column's values with JSON text read; None also for a key that a row does not have."""
    read = _reader(field)
    return [value if value is None or read is None else read(value) for value in column.to_pylist()]


def take_rows(table: pa.Table, numbers: pa.Array) -> pa.Table:
    """The rows with these numbers; Arrow's own `take` knows no lists of an extension type, and no views of texts."""
    stored = _stored(table.schema)
    if stored == table.schema:  # a cast of null lists that Parquet gave is refused by Arrow
        return table.take(numbers)
    columns = [
        column.take(numbers) if kind == field.type else column.cast(kind).take(numbers).cast(field.type)
        for column, kind, field in zip(table.columns, stored.types, table.schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows of a schema; Arrow's own `empty_table` knows no lists of an extension type."""
    return _stored(schema).empty_table().cast(schema)


def plain_field(field: pa.Field, *, keep_json: bool = True) -> pa.Field:
    """A column of a type that every function of Arrow takes and that holds the same values, within lists too.

    Dictionaries become their values: an IPC file allows one, and every batch may bring another. Views of texts become
    texts: of them Arrow takes no rows. Without `keep_json` extension types, JSON text among them, become what they are
    stored as.
    """
    return field.with_type(_plain_type(field.type, keep_json))


def _stored(schema: pa.Schema) -> pa.Schema:
    return pa.schema([plain_field(field, keep_json=False) for field in schema])


def _plain_type(kind: pa.DataType, keep_json: bool) -> pa.DataType:
    plain = partial(plain_field, keep_json=keep_json)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type, keep_json)
    if pa.types.is_struct(kind):
        return pa.struct([plain(part) for part in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_field), plain(kind.item_field), keys_sorted=kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(plain(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(plain(kind.value_field))
    if isinstance(kind, pa.BaseExtensionType) and not keep_json:
        return kind.storage_type
    if kind == pa.string_view():
        return pa.large_string()
    return pa.large_binary() if kind == pa.binary_view() else kind


Reader = Callable[[Any], object]


def _reader(field: pa.Field) -> Reader | None:
    """What reads the JSON text in a field's values, which are not null; None where it holds none."""
    kind = field.type
    if is_json(field):
        return _decoded
    if pa.types.is_struct(kind):
        parts = [(part.name, found) for part in kind if (found := _reader(part)) is not None]
        return (lambda value: {**value, **{n: _each(f, value[n]) for n, f in parts}}) if parts else None
    if pa.types.is_map(kind):
        key, item = _reader(kind.key_field), _reader(kind.item_field)
        return (lambda value: [(_each(key, k), _each(item, i)) for k, i in value]) if key or item else None
    inner = _reader(kind.field(0)) if kind.num_fields == 1 else None
    return (lambda value: [_each(inner, item) for item in value]) if inner else None


def _each(read: Reader | None, value: object) -> object:
    return value if value is None or read is None else read(value)


def _decoded(text: str) -> object:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return text  # not what its type says: the text as it is
