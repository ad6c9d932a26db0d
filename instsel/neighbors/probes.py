"""Probes: of each row's nearest neighbours, clustered, the most complex member of every cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instsel.neighbors.nearest import Neighbors

SAME_POINT = 1e-9  # squared distance of unit vectors below which two points count as one (float32 rounding is 1e-14)
BLOCK = 256  # sets of points clustered at a time, which keeps the work in the cache


@dataclass(frozen=True, slots=True)
class Probes:
    """The probes of each row, nearest first.

    `index` int64 `[n, k]`, -1 where a row has fewer; `similarity` float64 `[n, k]`, their cosines to the row, NaN
    likewise.
    """

    index: np.ndarray
    similarity: np.ndarray


def probes_among(
    unit: np.ndarray, complexity: np.ndarray, neighbors: Neighbors, *, num_probes: int, seed: int = 0
) -> Probes:
    """The probes of the rows whose neighbours these are: of each of `num_probes` k-means clusters the most complex.

    `unit` are unit vectors `[n, d]` and `complexity` float64 `[n]` of all rows, higher is more complex, NaN below every
    number. Ties go to the lower row. A row has fewer probes where it has fewer distinct neighbours.

    Source: arXiv 2604.25132.
    """
    count, width = neighbors.index.shape
    complexity = np.where(np.isnan(complexity), -np.inf, complexity)
    index = np.full((count, num_probes), -1, np.int64)
    similarity = np.full((count, num_probes), np.nan)
    for start in range(0, count if width else 0, BLOCK):
        rows = neighbors.index[start : start + BLOCK]
        present = rows >= 0
        points = unit[rows].astype(np.float64)
        labels, _ = kmeans(points, int(num_probes), present=present, seed=seed)
        place = _most_complex(labels, np.where(present, complexity[rows], -np.inf), rows, int(num_probes))
        found = place < width
        place = np.minimum(place, width - 1)
        chosen = np.take_along_axis(rows, place, 1)
        cosines = np.take_along_axis(neighbors.similarity[start : start + BLOCK], place, 1)
        index[start : start + BLOCK] = np.where(found, chosen, -1)
        similarity[start : start + BLOCK] = np.where(found, cosines, np.nan)
    return Probes(index, similarity)


def check_sizes(num_neighbors: int, num_probes: int) -> None:
    """Raise ValueError unless both are whole numbers of at least 1, and there are no more probes than neighbours."""
    for name, value in (("num_neighbors", num_neighbors), ("num_probes", num_probes)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if num_probes > num_neighbors:
        raise ValueError(f"num_probes must be at most num_neighbors, {num_neighbors}, got {num_probes}")


def _most_complex(labels: np.ndarray, complexity: np.ndarray, rows: np.ndarray, num_clusters: int) -> np.ndarray:
    """The place of each cluster's most complex member, `[b, k]` in rising order; past the last where it is empty."""
    places = []
    for cluster in range(num_clusters):
        member = labels == cluster
        highest = np.where(member, complexity, -np.inf).max(1, keepdims=True)
        lowest_row = np.where(member & (complexity == highest), rows, np.iinfo(np.int64).max)
        places.append(np.where(member.any(1), lowest_row.argmin(1), rows.shape[1]))
    return np.sort(np.stack(places, 1), 1)


def kmeans(
    points: np.ndarray,
    num_clusters: int,
    *,
    present: np.ndarray | None = None,
    seed: int = 0,
    num_starts: int = 8,
    max_iterations: int = 50,
) -> tuple[np.ndarray, np.ndarray]:
    """k-means on many small sets of points at once: `min over labels of sum_i |p_i - mean of its cluster|²`.

    Distances to a mean follow from the inner products of a set's points, so a step costs `p² k` and not `p k d`:

        |p_i - m_S|² = G_ii - 2/|S| sum_{j in S} G_ij + 1/|S|² sum_{j,l in S} G_jl,   G = P Pᵀ

    Lloyd's iterations from `num_starts` k-means++ seedings; the start that ends lowest is kept. The random numbers
    depend on `seed` alone and every set is computed by itself, so a set's labels do not depend on its batch. A cluster
    that runs empty takes the point farthest from its own mean; some stay empty where there are fewer distinct points.

    `points` float64 `[b, p, d]`; `present` bool `[b, p]`, False for padding. Returns labels int64 `[b, p]` (-1 for
    padding) and the sums of squares float64 `[b]`.

    >>> labels, inertia = kmeans(np.array([[[0.0], [0.1], [5.0], [5.2]]]), 2)
    >>> (labels == labels[0, 0]).tolist(), inertia.round(3)
    ([[True, True, False, False]], array([0.025]))
    """
    count, size, _ = points.shape
    if present is None:
        present = np.ones((count, size), bool)
    gram = points @ points.transpose(0, 2, 1)
    draws = np.random.default_rng(seed).random((num_starts, num_clusters))
    best = np.full((count, size), -1, np.int64)
    lowest = np.full(count, np.inf)
    for draw in draws:
        labels, inertia = _lloyd(gram, present, _seeding(gram, present, draw), num_clusters, max_iterations)
        better = inertia < lowest - SAME_POINT
        best[better], lowest[better] = labels[better], inertia[better]
    return best, np.where(present.any(1), lowest, 0.0)


def _seeding(gram: np.ndarray, present: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Labels of the points by their nearest k-means++ centre: a point is drawn with probability as its distance²."""
    square = np.einsum("bpp->bp", gram)
    labels = np.where(present, 0, -1)
    nearest = np.full(square.shape, np.inf)
    weight = present.astype(np.float64)
    for cluster, uniform in enumerate(draw):
        total = np.cumsum(weight, 1)
        centre = (total <= uniform * total[:, -1:]).sum(1)
        # Rounding may put the drawn point behind the last with a weight; and where no weight is left, none is drawn.
        drawn = total[:, -1] > 0
        rows = np.flatnonzero(drawn)
        centre = np.minimum(centre, weight.shape[1] - 1 - (weight[:, ::-1] > 0).argmax(1))[rows]
        distance = square[rows] + square[rows, centre][:, None] - 2 * gram[rows, centre]
        closer = present[rows] & (distance < nearest[rows] - SAME_POINT * (cluster > 0))
        labels[rows] = np.where(closer, cluster, labels[rows])
        nearest[rows] = np.where(closer, distance, nearest[rows])
        weight = np.where(present & (nearest > SAME_POINT), nearest, 0.0)
    return labels


def _lloyd(
    gram: np.ndarray, present: np.ndarray, labels: np.ndarray, num_clusters: int, max_iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Move each point to the cluster with the nearest mean until none moves; ties stay with the lower cluster."""
    inertia = np.full(len(gram), np.inf)
    active = np.arange(len(gram))
    clusters = np.arange(num_clusters)[:, None]
    square = np.einsum("bpp->bp", gram)
    for iteration in range(max_iterations + 1):
        before = labels[active]
        member = (before[:, None, :] == clusters).astype(np.float64)
        size = member.sum(2)
        divisor = np.maximum(size, 1)[:, :, None]
        to_points = member @ gram[active] / divisor
        to_itself = (to_points * member).sum(2, keepdims=True) / divisor
        distance = square[active][:, None, :] - 2 * to_points + to_itself
        distance[size == 0] = np.inf
        own = np.where(member > 0, distance, 0.0).sum(1).clip(min=0)
        inertia[active] = own.sum(1)
        after, nearest = np.zeros_like(before), distance[:, 0].copy()
        for cluster in range(1, num_clusters):
            closer = distance[:, cluster] < nearest - 1e-12
            after[closer], nearest[closer] = cluster, distance[:, cluster][closer]
        after = np.where(present[active], after, -1)
        for row, cluster in zip(*np.nonzero(size == 0), strict=True):
            farthest = own[row].argmax()
            if own[row, farthest] > SAME_POINT:
                after[row, farthest], own[row, farthest] = cluster, 0.0
        moved = (after != before).any(1)
        active = active[moved]
        if not len(active) or iteration == max_iterations:
            break
        labels[active] = after[moved]
    return labels, inertia
