"""Columns at all rows on their way to workers: mapped arrays by their file, or in pieces to those who do not see it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from instsel.methods.stages import Columns
from instsel.neighbors.mapped_rows import is_mapped, rows_of

PIECE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class MappedFile:
    """Where an array lies."""

    path: str
    dtype: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.memmap) -> MappedFile:
        return cls(str(array.filename), array.dtype.str, array.offset, array.shape)

    def open(self) -> np.ndarray:
        return np.memmap(self.path, self.dtype, "c", self.offset, self.shape)


@dataclass(slots=True)
class WholeColumns:
    """What a worker makes the columns of; `pieces` of those that come apart are given when it does."""

    inside: Columns
    files: Mapping[str, MappedFile]
    apart: Mapping[str, int]  # how many pieces, one column's after the other's
    _opened: Columns | None = field(default=None, compare=False)

    def open(self, pieces: Sequence[np.ndarray]) -> Columns:
        """The columns, the same arrays each time; OSError where a file is not to be seen here."""
        if self._opened is None:
            found = {**self.inside, **{name: file.open() for name, file in self.files.items()}}
            given = iter(pieces)
            for name, count in self.apart.items():
                found[name] = np.concatenate([next(given) for _ in range(count)])
            self._opened = found
        return self._opened


class PackedColumns(Mapping[str, bytes]):
    """The packed columns under `key`, and the pieces of mapped arrays under keys of their own, each packed when asked.

    So the driver never holds more than a piece of an array that it has on the disk.
    """

    def __init__(self, key: str, columns: Columns, *, seen: bool) -> None:
        mapped = {name: values for name, values in columns.items() if is_mapped(values)}
        self._places: dict[str, tuple[np.ndarray, slice]] = {}
        apart: dict[str, int] = {}
        for name, values in () if seen else mapped.items():
            step = max(PIECE_BYTES // (values.itemsize * math.prod(values.shape[1:])), 1)
            starts = range(0, len(values), step)
            apart[name] = len(starts)
            for start in starts:
                self._places[f"{key}, piece {len(self._places)}"] = values, slice(start, start + step)
        inside = {name: values for name, values in columns.items() if name not in mapped}
        files = {name: MappedFile.of(values) for name, values in mapped.items()} if seen else {}
        self.keys_in_order = (key, *self._places)
        self._key, self._packed = key, pickle.dumps(WholeColumns(inside, files, apart), protocol=5)

    def __getitem__(self, key: str) -> bytes:
        if key == self._key:
            return self._packed
        array, rows = self._places[key]
        return pickle.dumps(rows_of(array, rows), protocol=5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys_in_order)

    def __len__(self) -> int:
        return len(self.keys_in_order)
