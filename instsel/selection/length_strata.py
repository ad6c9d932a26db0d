"""Ranks within rows of like length: what a score says beyond how long an answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsel.selection.budget import row_lengths

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FOLLOWS_LENGTH = 0.5  # a rank correlation with the length from which a selection says so


def said_of_length(by: str, rho: float) -> str:
    """What is said of a score with this rank correlation with the answer's length; empty where that is small or NaN.

    >>> said_of_length("ifd", 0.94), said_of_length("ifd", -0.5), said_of_length("ifd", float("nan"))
    ("ifd follows the answer's length (rank correlation +0.94)", '', '')
    """
    return f"{by} follows the answer's length (rank correlation {rho:+.2f})" if abs(rho) > FOLLOWS_LENGTH else ""


def rank_within_strata(score: np.ndarray, length: np.ndarray, usable: np.ndarray, num_strata: int) -> np.ndarray:
    """The share of the rows of like length whose score is not above a row's own, so that every length has its best.

    Usable rows are sorted by length and cut into `num_strata` parts of the same size, rows of one length together in
    the part of the first of them; with ``m`` rows in a row's part,

        rank = (rows of the part with a lower score + (rows with the same score + 1) / 2) / m

    `score` float64 `[n]`, `length` numbers `[n]`, `usable` bool `[n]`. Returns float64 `[n]` above 0 and at most 1, NaN
    where a row is not usable.

    >>> rank_within_strata(np.array([1.0, 2.0, 8.0, 9.0]), np.array([5, 6, 50, 60]), np.ones(4, bool), 2)
    array([0.5, 1. , 0.5, 1. ])
    """
    rows = np.flatnonzero(usable)
    found = np.full(len(score), np.nan)
    if not len(rows):
        return found
    first = np.searchsorted(np.sort(length[rows]), length[rows])  # rows of the same length share the first one's place
    part = first * min(num_strata, len(rows)) // len(rows)
    _, place = np.unique(score[rows], return_inverse=True)
    order = np.lexsort((place, part))
    _, number, count = np.unique(np.stack([part, place], 1)[order], axis=0, return_inverse=True, return_counts=True)
    _, begin, size = np.unique(part[order], return_index=True, return_counts=True)
    before = np.cumsum(count) - count  # rows before each run of equal scores, in all parts
    stratum = np.searchsorted(begin, np.arange(len(rows)), "right") - 1
    number = number.reshape(-1)
    found[rows[order]] = (before[number] - begin[stratum] + (count[number] + 1) / 2) / size[stratum]
    return found


def checked_strata(length_strata: object, num_tokens: ArrayLike | None, usable: np.ndarray) -> np.ndarray:
    """The lengths as float64 `[n]`; ValueError or TypeError where the number of strata or a length is none."""
    if isinstance(length_strata, bool) or not isinstance(length_strata, int | np.integer):
        raise TypeError(f"length_strata must be a whole number of strata, got {length_strata!r}")
    if length_strata < 2:
        raise ValueError(f"length_strata must be at least 2, got {length_strata}")
    length = row_lengths(num_tokens, len(usable), "length_strata").astype(np.float64)
    if (wrong := np.flatnonzero(usable & ~np.isfinite(length))).size:
        raise ValueError(f"num_tokens must be finite numbers, got {length[wrong[0]]} in row {wrong[0]}")
    return length
