"""Budgets: how much may be selected, in rows or in tokens, and rows taken in an order while they fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit and what each row takes of it: `limit` int, `cost` int64 `[n]` (1 a row, or its tokens)."""

    limit: int
    cost: np.ndarray

    def fill(self, rows: Iterable[int], least: int) -> np.ndarray:
        """Take rows in the order given, each that fits into what is left; `least` is the lowest cost of any of them."""
        left, taken = self.limit, []
        if left >= least:
            for row in rows:
                if (cost := int(self.cost[row])) <= left:
                    taken.append(row)
                    left -= cost
                    if left < least:
                        break
        return np.array(taken, np.int64)


def row_budget(budget: object, size: int) -> Budget:
    """A count of rows, or a share of all `size` rows."""
    return Budget(rows_of(budget, size), np.ones(size, np.int64))


def token_budget(budget_tokens: object, num_tokens: ArrayLike | None, usable: np.ndarray) -> Budget:
    """A number of tokens, by the rows' lengths; those of rows that are not usable do not matter."""
    if isinstance(budget_tokens, bool) or not isinstance(budget_tokens, int | np.integer):
        raise TypeError(f"budget_tokens must be a whole number of tokens, got {budget_tokens!r}")
    length = row_lengths(num_tokens, len(usable), "budget_tokens")
    # 2**53 tokens are more than there are, and whole numbers up to there are exact as floats.
    sound = (length >= 1) & (length < 2**53) & (length == np.floor(length))
    if (wrong := np.flatnonzero(usable & ~sound)).size:
        raise ValueError(f"num_tokens must be whole numbers of at least 1, got {length[wrong[0]]} in row {wrong[0]}")
    cost = np.where(usable, length, 1).astype(np.int64)
    shortest = cost[usable].min() if usable.any() else 1
    if budget_tokens < shortest:
        raise ValueError(f"budget_tokens must be at least {shortest}, the shortest row's tokens, got {budget_tokens}")
    return Budget(min(int(budget_tokens), 2**62), cost)  # more than there are: all of them, and quotas are int64


def row_lengths(num_tokens: ArrayLike | None, size: int, needed_by: str) -> np.ndarray:
    """The lengths of rows, of any numeric dtype; ValueError where there are none, or not `size` numbers."""
    if num_tokens is None:
        raise ValueError(f"{needed_by} needs num_tokens, the length of each row: numbers [n]")
    length = np.asarray(num_tokens)
    if length.shape != (size,) or length.dtype.kind not in "iuf":
        raise ValueError(
            f"num_tokens must be numbers [{size}], one for each score, got {length.dtype} of shape {list(length.shape)}"
        )
    return length


def rows_of(budget: object, size: int) -> int:
    """How many of `size` rows a count or a share is; ValueError or TypeError where it is none."""
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.integer | np.floating):
        raise TypeError(f"budget must be a count (int) or a fraction (float), got {type(budget).__name__}")
    if isinstance(budget, int | np.integer):
        if budget < 1:
            raise ValueError(f"budget must be at least 1 row, got {budget}")
        if budget > size:
            raise ValueError(f"budget must be at most the {size} rows there are, got {budget}")
        return int(budget)
    if not 0 < budget <= 1:
        raise ValueError(f"budget as a fraction must be above 0 and at most 1.0 (100 %), got {budget}")
    return max(1, int(budget * size * (1 + 1e-12)))  # 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary
