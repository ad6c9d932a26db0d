"""Facility location: rows chosen so that every row has a good row near it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from instsel.neighbors.nearest import nearest_neighbors
from instsel.selection.budget import Budget

FIXED = 2.0**32  # what a row is worth to another counts in whole multiples of 1/FIXED: sums are exact in any order


@dataclass(frozen=True, slots=True)
class _Worth:
    """What each row is worth to which others: `row[begin[j]:begin[j+1]]` and `value` likewise, int64."""

    begin: np.ndarray
    row: np.ndarray
    value: np.ndarray


def by_facility_location(
    unit: np.ndarray, order: np.ndarray, score: np.ndarray, budget: Budget, num_neighbors: int
) -> np.ndarray:
    """Rows of `order` (best first) in the order in which lazy greedy chooses them.

    Maximises, over sets S of rows of U = `order` within the budget,

        F(S) = sum_{i in U} max_{j in S} w_j s(i, j),    w_j = |{l in U: score_l <= score_j}| / |U|,

    where s(i, i) = 1; s(i, j) = max(0, cosine of i and j) if one is among the `num_neighbors` nearest rows in U of the
    other; and 0 otherwise. F is monotone and submodular, so with a budget of rows the set chosen has at least 1 - 1/e
    of the highest F there is. Ties go to the higher score, then to the lower row; a row that does not fit into what is
    left of the budget is skipped. With all scores equal it is plain facility location.

    Source: Nemhauser, Wolsey and Fisher 1978 (greedy and its bound), Minoux 1978 (lazy greedy); after Superfiltering,
    arXiv 2402.00530, whose program applies plain facility location to rows chosen by score, and MIG, arXiv 2504.13835,
    which weighs what a row brings to its surroundings by its quality.
    """
    rows = np.sort(order)
    rank = np.empty(len(rows), np.int64)  # by score
    rank[np.searchsorted(rows, order)] = np.arange(len(rows))
    weight = np.searchsorted(np.sort(score[rows]), score[rows], side="right") / max(1, len(rows))
    worth = _worth(unit[rows], weight, num_neighbors)
    cost, least, left = budget.cost[rows], int(budget.cost[rows].min(initial=budget.limit)), budget.limit
    covered = np.zeros(len(rows), np.int64)  # of each row, what the best chosen row is worth to it
    first = np.add.reduceat(worth.value, worth.begin[:-1]) if len(rows) else np.zeros(0, np.int64)
    queue = list(zip((-first).tolist(), rank.tolist(), range(len(rows)), strict=True))
    heapq.heapify(queue)
    chosen: list[int] = []
    while queue and left >= least:
        _, place, row = queue[0]
        if cost[row] > left:
            heapq.heappop(queue)
            continue
        near = slice(worth.begin[row], worth.begin[row + 1])
        reached, value = worth.row[near], worth.value[near]
        # Gains only fall as the set grows: a row that still leads with its gain of now is the best of all.
        entry = (-int(np.maximum(value - covered[reached], 0).sum()), place, row)
        heapq.heapreplace(queue, entry)
        if queue[0] is entry:
            heapq.heappop(queue)
            chosen.append(row)
            left -= int(cost[row])
            covered[reached] = np.maximum(covered[reached], value)
    return rows[chosen]


def _worth(unit: np.ndarray, weight: np.ndarray, num_neighbors: int) -> _Worth:
    count = len(unit)
    near = nearest_neighbors(unit, num_neighbors)
    one, place = np.nonzero(near.similarity > 0)  # NaN, where a row has no more neighbours, is not
    other, similarity = near.index[one, place], near.similarity[one, place]
    itself = np.arange(count)
    pair = np.concatenate([one * count + other, other * count + one, itself * (count + 1)])
    similarity = np.concatenate([similarity, similarity, np.ones(count)])
    pair, kept = np.unique(pair, return_index=True)
    row, reached = np.divmod(pair, max(1, count))
    value = np.rint(weight[row] * similarity[kept] * FIXED).astype(np.int64)
    return _Worth(np.searchsorted(row, np.arange(count + 1)), reached, value)
