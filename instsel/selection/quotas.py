"""Quotas: a budget divided over clusters, and each cluster's best rows within its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np

from instsel.selection.budget import Budget, row_budget
from instsel.selection.diversity import different_rows


def by_quotas(
    order: np.ndarray,
    score: np.ndarray,
    labels: np.ndarray,
    budget: Budget,
    *,
    equal: bool,
    unit: np.ndarray | None = None,
    limit: float = 1.0,
) -> np.ndarray:
    """Rows of `order` (best first), each cluster's best up to its quota, best first.

    `labels` int64 `[n]` from 0. A cluster's size is what its rows of `order` cost together. With `unit`, rows too
    similar to a better one of their cluster are left out before quotas are shared. What rows that do not fit leave of
    the quotas goes to the best rows of any cluster that fit.
    """
    num_clusters = int(labels.max(initial=-1)) + 1
    size = _cost_by_cluster(order, labels, budget.cost, num_clusters)
    if unit is not None:
        order = order[_different_in_cluster(order, labels, budget, unit, limit)]
    quota = share_budget(
        budget.limit,
        np.ones_like(size) if equal else size,
        _cost_by_cluster(order, labels, budget.cost, num_clusters),
        lambda quota: _score_of_next(order, score, labels, budget.cost, quota),
    )
    allowance, left = quota.tolist(), budget.limit
    taken = np.zeros(len(order), bool)
    for place, (label, cost) in enumerate(zip(labels[order].tolist(), budget.cost[order].tolist(), strict=True)):
        if cost <= allowance[label]:
            taken[place] = True
            allowance[label] -= cost
            left -= cost
    rest = order[~taken]
    if left and len(rest):
        more = Budget(left, budget.cost).fill(rest.tolist(), int(budget.cost[rest].min()))
        taken |= np.isin(order, more)
    return order[taken]


def drawn_from_best(order: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The rows of `order` (best first) anew: each cluster's best `share`, rounded up, in random order before the rest.

    >>> drawn_from_best(np.array([4, 3, 2, 1, 0]), np.array([0, 0, 0, 0, 1]), 0.5, seed=0)
    array([3, 4, 2, 1, 0])
    """
    of_row = labels[order]
    by_cluster = np.argsort(of_row, kind="stable")
    size = np.bincount(of_row, minlength=int(labels.max(initial=-1)) + 1)
    first = np.cumsum(size) - size
    place = np.empty(len(order), np.int64)  # in its cluster, from the best
    place[by_cluster] = np.arange(len(order)) - first[of_row[by_cluster]]
    best = place < np.ceil(share * size)[of_row]
    chance = np.random.default_rng(seed + 1).random(len(labels))[order]  # k-means has the seed itself
    return order[np.lexsort((np.where(best, -chance, np.arange(len(order))), ~best))]


def drawn_without_worst(
    score: np.ndarray, usable: np.ndarray, labels: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random scores for the usable rows but for the worst `share` of each cluster, and which rows those are.

    As many rows as `share` of the usable ones, rounded down, are left out: of each cluster those with the lowest
    scores, so many that the clusters give in proportion to their usable rows, by largest remainder; where remainders
    are equal, the cluster whose next row has the lowest score comes first.

    `score` float64 `[n]`, `usable` bool `[n]`, `labels` int64 `[n]` from 0. Returns float64 `[n]`, NaN where a row is
    left out or not usable, and bool `[n]`.

    >>> drawn, worst = drawn_without_worst(np.arange(4.0), np.ones(4, bool), np.array([0, 0, 1, 1]), 0.5, seed=0)
    >>> worst.tolist(), np.isnan(drawn).tolist()
    ([True, False, True, False], [True, False, True, False])
    """
    usable = usable & np.isfinite(score)
    worst = np.zeros(len(score), bool)
    if (size := int(usable.sum())) * share >= 1:
        order = np.argsort(score, kind="stable")
        order = order[usable[order]]
        few = Budget(row_budget(share, size).limit, np.ones(len(score), np.int64))
        worst[by_quotas(order, -score, labels, few, equal=False)] = True
    chance = np.random.default_rng(seed + 1).random(len(score))  # k-means has the seed itself
    return np.where(usable & ~worst, chance, np.nan), worst


def share_budget(
    limit: int, weight: np.ndarray, capacity: np.ndarray, score_of_next: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Divide `limit` over clusters in proportion to `weight` by largest remainder, none above its `capacity`.

    The quotas are `floor(limit * weight / sum of weights)`, and one more for the clusters with the largest remainders
    until the sum is `limit`; where remainders are equal, the cluster whose next row has the highest score comes first,
    then the lower label. Clusters that this would give more than their capacity get that, and the rest is shared anew
    among the others. So the sum is `limit`, or that of the capacities where this is less.

    `weight`, `capacity` int64 `[k]`; `score_of_next(quota)` gives float64 `[k]`. Returns int64 `[k]`.

    Source: largest remainder is Hamilton's method of apportionment.

    >>> share_budget(10, np.array([50, 30, 20]), np.array([50, 1, 20]), lambda quota: np.zeros(3))
    array([6, 1, 3])
    """
    quota = np.zeros(len(weight), np.int64)
    unfilled = np.flatnonzero(capacity > 0)
    left = min(limit, int(capacity.sum()))
    while len(unfilled):
        part = weight[unfilled]
        total = int(part.sum())
        if left * int(part.max()) >= 2**63:
            part = part.astype(object)  # Python's numbers have no end
        share = (part * left // total).astype(np.int64)
        remainder = (part * left % total).astype(np.int64)
        full = np.zeros(len(quota), np.int64)
        full[unfilled] = share
        order = np.lexsort((unfilled, -score_of_next(full)[unfilled], -remainder))
        share[order[: left - int(share.sum())]] += 1
        over = share > capacity[unfilled]
        if not over.any():
            quota[unfilled] = share
            break
        quota[unfilled[over]] = capacity[unfilled[over]]
        left -= int(capacity[unfilled[over]].sum())
        unfilled = unfilled[~over]
    return quota


def _cost_by_cluster(order: np.ndarray, labels: np.ndarray, cost: np.ndarray, num_clusters: int) -> np.ndarray:
    total = np.zeros(num_clusters, np.int64)
    np.add.at(total, labels[order], cost[order])
    return total


def _different_in_cluster(
    order: np.ndarray, labels: np.ndarray, budget: Budget, unit: np.ndarray, limit: float
) -> np.ndarray:
    """Which places of `order` stay, bool: those of rows not too similar to a better one of their cluster."""
    stays = np.zeros(len(labels), bool)
    by_cluster = order[np.argsort(labels[order], kind="stable")]
    begin = np.flatnonzero(np.diff(labels[by_cluster], prepend=-1))
    # Where every row costs as much as another, no cluster can use more rows than the budget holds.
    enough = budget.limit if (budget.cost == 1).all() else None
    for low, high in zip(begin, np.append(begin[1:], len(by_cluster)), strict=True):
        stays[list(islice(different_rows(unit, by_cluster[low:high], limit), enough))] = True
    return stays[order]


def _score_of_next(
    order: np.ndarray, score: np.ndarray, labels: np.ndarray, cost: np.ndarray, quota: np.ndarray
) -> np.ndarray:
    """Of each cluster the score of its first row that goes beyond its quota; -inf where there is none."""
    by_cluster = order[np.argsort(labels[order], kind="stable")]
    label = labels[by_cluster]
    total = np.cumsum(cost[by_cluster])
    begin = np.searchsorted(label, np.arange(len(quota)))
    before = np.concatenate([[0], total])[begin]
    beyond = np.flatnonzero(total - before[label] > quota[label])
    found, first = np.unique(label[beyond], return_index=True)
    out = np.full(len(quota), -np.inf)
    out[found] = score[by_cluster[beyond[first]]]
    return out
