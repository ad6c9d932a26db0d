"""Score arrays as Arrow columns and back: a number that does not exist is NaN in NumPy and null in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

Columns = Mapping[str, "np.ndarray | Sequence[object]"]


def to_table(columns: Columns) -> pa.Table:
    """Arrays `[n]` as columns, arrays `[n, k]` as fixed-size lists, sequences of arrays as lists of float64.

    >>> to_table({"ifd": np.array([0.5, np.nan]), "status": np.array(["ok", "too_long"])}).to_pylist()
    [{'ifd': 0.5, 'status': 'ok'}, {'ifd': None, 'status': 'too_long'}]
    """
    return pa.table({name: to_arrow(values) for name, values in columns.items()})


def from_table(table: pa.Table) -> dict[str, np.ndarray]:
    """The arrays that `to_table` was given; lists of unequal lengths come back as an object array."""
    return {name: _to_numpy(table.column(name).combine_chunks()) for name in table.column_names}


def to_arrow(values: np.ndarray | Sequence[Any]) -> pa.Array:
    """One column of `to_table`."""
    if not isinstance(values, np.ndarray):
        values = list(values)
        if any(isinstance(value, (np.ndarray, list, tuple)) for value in values):
            lists = [[None if np.isnan(x) else float(x) for x in value] for value in values]
            return pa.array(lists, pa.list_(pa.float64()))
        values = np.array(values, dtype=object)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(_flat(values.reshape(-1)), values.shape[1])
    return _flat(values)


def _flat(values: np.ndarray) -> pa.Array:
    if values.dtype.kind == "f":
        return pa.array(values, mask=np.isnan(values))
    if values.dtype.kind == "O":
        if any(isinstance(value, np.ndarray) for value in values):
            return to_arrow(list(values))
        return pa.array(list(values), from_pandas=True)
    return pa.array(values.tolist(), pa.string()) if values.dtype.kind == "U" else pa.array(values)


def _to_numpy(array: pa.Array) -> np.ndarray:
    kind = array.type
    if pa.types.is_fixed_size_list(kind):
        return _to_numpy(array.flatten()).reshape(len(array), kind.list_size)
    if pa.types.is_list(kind):
        lists = np.empty(len(array), dtype=object)
        for i, value in enumerate(array.to_pylist()):
            lists[i] = np.array([np.nan if x is None else x for x in value], dtype=np.float64)
        return lists
    if pa.types.is_floating(kind):
        return array.fill_null(float("nan")).to_numpy(zero_copy_only=False)
    if pa.types.is_string(kind):
        return np.array(array.to_pylist(), dtype=object).astype(str) if len(array) else np.array([], dtype=str)
    return array.to_numpy(zero_copy_only=False)
