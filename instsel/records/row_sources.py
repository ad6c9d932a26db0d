"""Anything that holds rows as dicts in batches: lists, tables of several libraries, dicts of columns.

No library is imported that the object does not come from, so a table costs only those who have one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from datasets import Dataset

BATCH_ROWS = 4096

Batches = Iterator[Sequence[Any]]  # of rows, which are not looked at yet


def open_rows(rows: Any) -> tuple[list[str], Batches]:
    """Column names in order of first appearance, and the rows as dicts in batches, of anything that holds rows.

    rows: dicts in any iterable, a pandas or polars ``DataFrame``, a pyarrow ``Table`` or ``RecordBatch``, a Hugging
    Face ``Dataset`` or ``IterableDataset``, or a dict of columns. A value that a table marks as missing (null, NaN,
    ``pandas.NA``, ``NaT``) is None.

    Raises TypeError for what holds no rows, ValueError for a table that names a column twice or whose columns differ in
    length.

    >>> names, batches = open_rows({"instruction": ["Add 1 and 2."], "output": ["3"]})
    >>> names, next(batches)
    (['instruction', 'output'], [{'instruction': 'Add 1 and 2.', 'output': '3'}])
    """
    if isinstance(rows, (str, bytes)) or hasattr(rows, "__fspath__"):
        raise TypeError(f"rows must hold rows, got a {type(rows).__name__}; read a file with read_rows(path) first")
    table = open_table(rows)
    if table is not None:
        return table
    if isinstance(rows, Mapping):
        raise TypeError(_one_mapping(rows))
    try:
        held = rows if isinstance(rows, (list, tuple)) else list(rows)
    except TypeError:
        raise TypeError(f"rows must hold rows, got a {type(rows).__name__}") from None
    names = dict.fromkeys(name for row in held if isinstance(row, Mapping) for name in row)
    return [str(name) for name in names], iter([held])


def open_table(rows: Any) -> tuple[list[str], Batches] | None:
    """As :func:`open_rows`, and None for what has no columns of its own, such as a list of dicts."""
    table = _open_table(rows)
    if table is not None and len(set(table[0])) < len(table[0]):
        twice = next(name for name in table[0] if table[0].count(name) > 1)
        raise ValueError(f"rows: the table has the column {twice!r} {table[0].count(twice)} times")
    return table


def _open_table(rows: Any) -> tuple[list[str], Batches] | None:
    if _is_a(rows, "pandas", "DataFrame"):
        return [str(name) for name in rows.columns], _pandas_batches(rows)
    if _is_a(rows, "polars", "LazyFrame"):
        rows = rows.collect()
    if _is_a(rows, "polars", "DataFrame"):
        if "arrow.json" in repr(rows.dtypes):  # whose values are text to polars
            return _open_table(rows.to_arrow())
        return list(rows.columns), (part.to_dicts() for part in rows.iter_slices(BATCH_ROWS))
    if _is_a(rows, "pyarrow", "RecordBatch"):
        return list(rows.schema.names), _arrow_batches(_slices(rows))
    if _is_a(rows, "pyarrow", "Table"):
        return list(rows.column_names), _arrow_batches(rows.to_batches(max_chunksize=BATCH_ROWS))
    if type(rows).__module__.partition(".")[0] == "pyarrow":
        raise TypeError(f"rows must be a pyarrow Table or RecordBatch, got {type(rows).__name__}")
    if _is_a(rows, "datasets", "Dataset"):
        return list(rows.column_names), _dataset_batches(rows.with_format(None))
    if _is_a(rows, "datasets", "IterableDataset"):
        held = list(rows.with_format(None))
        return list(dict.fromkeys(name for row in held for name in row)), iter([held])
    if isinstance(rows, Mapping) and _has_columns(rows):
        lengths = {str(name): len(column) for name, column in rows.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name!r} {length}" for name, length in list(lengths.items())[:8])
            raise ValueError(f"rows: the columns of a dict must have one length, got {shown}")
        return list(lengths), _column_batches({name: plain(column) for name, column in rows.items()})
    return None


def _is_a(value: object, package: str, name: str) -> bool:
    """Whether an object is of a class of a package; one that was never imported has no objects."""
    found = getattr(sys.modules.get(package), name, None)
    return isinstance(found, type) and isinstance(value, found)


def _has_columns(rows: Mapping[str, Iterable[object]]) -> bool:
    """Whether a dict holds a column under every name, rather than one row or the parts of a dataset."""
    if not rows or not all(_is_column(column) for column in rows.values()):
        return False
    first = [next(iter(column), None) for column in rows.values()]
    turns = (isinstance(cell, Mapping) and ("role" in cell or "from" in cell) for cell in first)
    return not any(turns)  # a column of turns holds lists of them; this is the conversation of one row


def _is_column(value: object) -> bool:
    if isinstance(value, (str, bytes)):
        return False
    return isinstance(value, Sequence) or (hasattr(value, "__array__") and getattr(value, "ndim", 1) == 1)


def _lister(value: object) -> Callable[[], object] | None:
    """What gives an array's, a Series' or a scalar's values as Python's own; None where there is no such thing."""
    names = ("tolist", "to_list", "to_pylist")
    return next((getattr(value, name) for name in names if hasattr(value, name)), None)


def _one_mapping(rows: Mapping[str, object]) -> str:
    keys = list(rows)[:8]
    if _is_a(rows, "datasets", "DatasetDict") or _is_a(rows, "datasets", "IterableDatasetDict"):
        return f"rows must hold rows, got one {type(rows).__name__} with the splits {keys}: take one of them"
    return f"rows must be a sequence of rows, got one {type(rows).__name__} with keys {keys}"


def _pandas_batches(frame: pd.DataFrame) -> Batches:
    for start in range(0, len(frame), BATCH_ROWS):
        part = frame.iloc[start : start + BATCH_ROWS]
        yield from _column_batches({str(name): plain(part[name]) for name in part.columns})


def _dataset_batches(dataset: Dataset) -> Batches:
    for start in range(0, len(dataset), BATCH_ROWS):
        yield from _column_batches(dataset[start : start + BATCH_ROWS])


def _column_batches(columns: Mapping[str, Sequence[object]]) -> Batches:
    names = [str(name) for name in columns]
    yield [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _arrow_batches(parts: Iterable[pa.Table | pa.RecordBatch]) -> Batches:
    from instsel.records.json_columns import whole_rows

    return map(whole_rows, parts)


def _slices(batch: pa.Table | pa.RecordBatch) -> Iterator[pa.Table | pa.RecordBatch]:
    return (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))


def plain(value: Any) -> Any:
    """Values of arrays, Series and scalars of NumPy as Python's own, missing ones as None, however deep they lie."""
    if isinstance(value, str):
        return value
    give = _lister(value)
    if give is not None:
        value = give()
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return None if _is_missing(value) else value


def _is_missing(value: object) -> bool:
    if isinstance(value, float):
        return value != value
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)
