"""Nearest neighbours by cosine: exact up to 200,000 distinct rows, through a faiss index above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.neighbors.candidates import EXACT_LIMIT, exact_candidates, index_candidates
from instsel.neighbors.embeddings import cosine, unit_rows


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The nearest rows of each row, nearest first, ties by row.

    `index` int64 `[n, k]`, -1 where a row has fewer; `similarity` float64 `[n, k]`, their cosines, NaN likewise.
    """

    index: np.ndarray
    similarity: np.ndarray


def nearest_neighbors(embeddings: Any, num_neighbors: int = 32, *, exact_limit: int = EXACT_LIMIT) -> Neighbors:
    """Find of each row the `num_neighbors` other rows with the highest cosine.

    A row is left out of its own neighbours by its index, not by its similarity: its copies are neighbours. The search
    goes over distinct vectors in float32 or less with a bound on its rounding, and what may belong is compared again
    in float64; so the result does not depend on blocks, threads or the order of rows. Above `exact_limit` distinct
    vectors an inverted-file index of faiss (the extra "index") finds the candidates; those it misses are missing.

    `embeddings` are numbers `[n, d]`, normalised here. With fewer than `num_neighbors` other rows the result has
    `n - 1` columns. A row of zeros has no direction, so no neighbours, and is nobody's.

    Raises ValueError where a row is not finite, `num_neighbors` is below 1, or faiss is needed and not installed.

    >>> nearest_neighbors(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [1.0, 0.0]]), 2).index
    array([[3, 1],
           [2, 0],
           [1, 0],
           [0, 1]])
    """
    if isinstance(num_neighbors, bool) or not isinstance(num_neighbors, int | np.integer) or num_neighbors < 1:
        raise ValueError(f"num_neighbors must be a whole number of at least 1, got {num_neighbors!r}")
    unit = unit_rows(embeddings)
    count = len(unit)
    width = int(min(num_neighbors, max(0, count - 1)))
    if width == 0:
        return Neighbors(np.empty((count, 0), np.int64), np.empty((count, 0)))
    directed = np.flatnonzero(unit.any(1))
    if len(directed) < count:
        inner = nearest_neighbors(unit[directed], num_neighbors, exact_limit=exact_limit)
        index, similarity = np.full((count, width), -1, np.int64), np.full((count, width), np.nan)
        columns = np.arange(inner.index.shape[1])
        index[directed[:, None], columns] = np.where(inner.index >= 0, directed[inner.index], -1)
        similarity[directed[:, None], columns] = inner.similarity
        return Neighbors(index, similarity)
    vectors, group = _distinct(unit)
    members = np.argsort(group, kind="stable")  # rows of a group together, in rising order
    begin = np.searchsorted(group[members], np.arange(len(vectors) + 1))
    wanted = min(width + 1, len(vectors))  # a row's own vector is among them
    find = exact_candidates if len(vectors) <= exact_limit else index_candidates
    index = np.empty((count, width), np.int64)
    similarity = np.empty((count, width))
    for low, high, query, other in find(vectors, wanted):
        found, cosines = _best_rows(vectors, low, high, query, other, members, begin, width + 1)
        rows = members[begin[low] : begin[high]]
        found, cosines = found[group[rows] - low], cosines[group[rows] - low]
        is_self = found == rows[:, None]
        own = np.where(is_self.any(1), is_self.argmax(1), width)
        after = np.arange(width) >= own[:, None]
        index[rows] = np.where(after, found[:, 1:], found[:, :-1])
        similarity[rows] = np.where(after, cosines[:, 1:], cosines[:, :-1])
    return Neighbors(index, similarity)


def _distinct(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows in order of first appearance, and which of them each row is."""
    first: dict[bytes, int] = {}
    group = np.fromiter((first.setdefault(row.tobytes(), len(first)) for row in unit), np.int64, len(unit))
    where = np.empty(len(first), np.int64)
    where[group[::-1]] = np.arange(len(unit))[::-1]
    return unit[where], group


def _best_rows(
    vectors: np.ndarray,
    low: int,
    high: int,
    query: np.ndarray,
    other: np.ndarray,
    members: np.ndarray,
    begin: np.ndarray,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The first `width` rows of each query by (cosine, row) among the rows of its candidate vectors, padded."""
    value = cosine(vectors, query + low, other)
    size = np.minimum(begin[other + 1] - begin[other], width)  # no more copies of one vector than places
    copy = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    query, value = np.repeat(query, size), np.repeat(value, size)
    row = members[np.repeat(begin[other], size) + copy]
    order = np.lexsort((row, -value, query))
    query, value, row = query[order], value[order], row[order]
    rank = np.arange(len(query)) - np.searchsorted(query, np.arange(high - low))[query]
    kept = rank < width
    found = np.full((high - low, width), -1, np.int64)
    cosines = np.full((high - low, width), np.nan)
    found[query[kept], rank[kept]] = row[kept]
    cosines[query[kept], rank[kept]] = value[kept]
    return found, cosines
