"""Rows of arrays that may be memory-mapped, and what is prepared once for such an array."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeGuard, TypeVar

import numpy as np

T = TypeVar("T")
BLOCK_ROWS = 4096


def is_mapped(array: object) -> TypeGuard[np.memmap]:
    """Whether an array is a whole memory-mapped file, not a part of one or a copy."""
    return isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)


def rows_of(array: np.ndarray, which: np.ndarray | slice | int) -> np.ndarray:
    """A copy of `array[which]`; of a memory-mapped array through a map of its own, so that nothing stays resident."""
    if is_mapped(array):
        array = np.memmap(str(array.filename), array.dtype, "r", array.offset, array.shape)
    return np.array(array[which])


def blocks_of(array: np.ndarray, which: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows `array[which]` a few thousand at a time, each block with its place."""
    for start in range(0, len(which), BLOCK_ROWS):
        place = slice(start, start + BLOCK_ROWS)
        yield place, rows_of(array, which[place])


class Prepared(Generic[T]):
    """A function of arrays whose last result is kept as long as they live: slices of a stage share it.

    The result must not hold the arrays themselves.

    >>> total = Prepared(lambda array: print("summed") or int(array.sum()))
    >>> numbers = np.arange(3)
    >>> total(numbers), total(numbers)
    summed
    (3, 3)
    """

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self._last: tuple[list[weakref.ref[np.ndarray]], T] | None = None

    def __call__(self, *arrays: np.ndarray) -> T:
        last = self._last
        if last is not None and all(one() is array for one, array in zip(last[0], arrays, strict=True)):
            return last[1]
        result = self._function(*arrays)
        self._last = [weakref.ref(array, self._drop) for array in arrays], result
        return result

    def _drop(self, reference: object) -> None:
        last = self._last
        if last is not None and any(one is reference for one in last[0]):
            self._last = None
