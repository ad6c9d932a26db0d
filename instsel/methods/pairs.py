"""Pairs of a demonstration and an example after it: which of them are scored, and what each has come to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instsel.records import Example

if TYPE_CHECKING:
    from instsel.engine.results import ScoreBatch

NO_ANSWER = "empty_target"  # status of a pair that has no second example, or in which one has no answer


def pair_statuses(scored: np.ndarray) -> np.ndarray:
    """Statuses of pairs before any is scored: "ok" where there is something to score."""
    return np.where(scored, "ok", NO_ANSWER).astype("<U13")


def pair_scores(batch: ScoreBatch, first: int, status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-probabilities and statuses of pairs, in the shape of `status`.

    The requests of the batch from `first` on are those of the pairs whose status so far is "ok", in their order. A pair
    without a request keeps its status and has NaN.
    """
    mean, found, asked = np.full(status.shape, np.nan), status.copy(), status == "ok"
    mean[asked], found[asked] = batch.mean_logprob[first:], batch.status[first:]
    return mean, found


def row_statuses(status: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Statuses `[n]` of rows from those of their pairs `[n, m]`, after and before they were scored.

    "ok" where some pair is; otherwise that of the row's first pair that was to be scored, or of its first.

    >>> after = np.array([["empty_target", "ok"], ["empty_target", "too_long"]])
    >>> row_statuses(after, np.where(after == "empty_target", after, "ok")).tolist()
    ['ok', 'too_long']
    """
    first = status[np.arange(len(status)), (known == "ok").argmax(1)]
    return np.where((status == "ok").any(1), "ok", first)


def same_texts(rows: Sequence[Example], others: Sequence[Example]) -> np.ndarray:
    """Where a row and another are one example, bool `[rows, others]`."""
    places: dict[Example, list[int]] = {}
    for place, other in enumerate(others):
        places.setdefault(other, []).append(place)
    same = np.zeros((len(rows), len(others)), bool)
    for i, row in enumerate(rows):
        same[i, places.get(row, [])] = True
    return same
