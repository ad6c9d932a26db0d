"""Nearest neighbours by cosine: exact, a block of rows against blocks of all rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from instsel.neighbors.candidates import EXACT_LIMIT, Candidates, exact_candidates, index_candidates
from instsel.neighbors.embeddings import cosine, unit_rows
from instsel.neighbors.mapped_rows import BLOCK_ROWS, Prepared, rows_of


@dataclass(frozen=True, slots=True)
class Neighbors:
    """The nearest rows of each row, nearest first, ties by row.

    `index` int64 `[n, k]`, -1 where a row has fewer; `similarity` float64 `[n, k]`, their cosines, NaN likewise.
    """

    index: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True, slots=True)
class DistinctRows:
    """The distinct directions of rows, and which rows have each.

    where    int64 `[m]`, the first row of each direction
    group    int64 `[n]`, the direction of each row, -1 for a row of zeros, which has none
    members  int64, the rows that have one, those of a direction together and in rising order
    begin    int64 `[m + 1]`, where the rows of each direction begin among them
    """

    where: np.ndarray
    group: np.ndarray
    members: np.ndarray
    begin: np.ndarray


def nearest_neighbors(embeddings: object, num_neighbors: int = 32, *, exact_limit: int = EXACT_LIMIT) -> Neighbors:
    """Find of each row the `num_neighbors` other rows with the highest cosine.

    A row is left out of its own neighbours by its index, not by its similarity: its copies are neighbours. The search
    goes over distinct vectors in float32 with a bound on its rounding, and what may belong is compared again in
    float64; so the result does not depend on blocks, threads or the order of rows. Above `exact_limit` distinct
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
    distinct = distinct_rows(unit)
    find = exact_candidates if len(distinct.where) <= exact_limit else index_candidates
    return _neighbors(unit, range(len(unit)), int(num_neighbors), distinct, find)


def neighbors_of(unit: np.ndarray, rows: range, num_neighbors: int) -> Neighbors:
    """Of some rows the `num_neighbors` nearest of all rows: those rows of `nearest_neighbors`, however many there are.

    `unit` is float32 `[n, d]` as from `unit_rows`, in memory or memory-mapped. What is prepared for it is kept for the
    next rows, so that a pool is searched in slices.

    >>> neighbors_of(unit_rows([[1, 0], [0.6, 0.8], [0, 1], [1, 0]]), range(2, 4), 2).index
    array([[1, 0],
           [0, 1]])
    """
    return _neighbors(unit, rows, num_neighbors, _prepared(unit), exact_candidates)


def distinct_rows(unit: np.ndarray) -> DistinctRows:
    """The distinct directions of unit vectors, in the order of their first appearance."""
    digests = np.zeros((len(unit), 2), np.uint64)  # of 128 bits: no two rows share one by chance
    for start in range(0, len(unit), BLOCK_ROWS):
        block = rows_of(unit, slice(start, start + BLOCK_ROWS))
        made = b"".join(hashlib.blake2b(row, digest_size=16).digest() for row in block)
        digests[start : start + BLOCK_ROWS] = np.frombuffer(made, np.uint64).reshape(-1, 2)
        digests[start : start + BLOCK_ROWS][~block.any(1)] = 0
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: copies in rising order
    begins = np.ones(len(unit), bool)
    begins[1:] = (digests[order[1:]] != digests[order[:-1]]).any(1)
    first = np.empty(len(unit), np.int64)  # of each row the first with its direction
    first[order] = order[begins][np.cumsum(begins) - 1]
    directed = np.flatnonzero(digests.any(1))
    where = directed[first[directed] == directed]
    group = np.full(len(unit), -1, np.int64)
    group[directed] = np.searchsorted(where, first[directed])
    members = directed[np.argsort(group[directed], kind="stable")]
    return DistinctRows(where, group, members, np.searchsorted(group[members], np.arange(len(where) + 1)))


_prepared = Prepared(distinct_rows)


def _neighbors(
    unit: np.ndarray, rows: range, num_neighbors: int, distinct: DistinctRows, find: Callable[..., Candidates]
) -> Neighbors:
    width = min(num_neighbors, max(0, len(unit) - 1))
    index = np.full((len(rows), width), -1, np.int64)
    similarity = np.full((len(rows), width), np.nan)
    group = distinct.group[rows.start : rows.stop]
    if not width or not (group >= 0).any():
        return Neighbors(index, similarity)
    queries = np.unique(group[group >= 0])
    at = np.argsort(group, kind="stable")  # places of the rows, those of a query together
    begin = np.searchsorted(group[at], queries)
    end = np.searchsorted(group[at], queries, side="right")
    wanted = min(width + 1, len(distinct.where))  # a row's own vector is among them
    for low, high, query, other in find(unit, distinct.where, queries, wanted):
        found, cosines = _best_rows(unit, queries[low:high], query, other, distinct, width + 1)
        places = at[begin[low] : end[high - 1]]
        which = np.repeat(np.arange(high - low), end[low:high] - begin[low:high])
        found, cosines = found[which], cosines[which]
        is_self = found == rows.start + places[:, None]
        own = np.where(is_self.any(1), is_self.argmax(1), width)
        after = np.arange(width) >= own[:, None]
        index[places] = np.where(after, found[:, 1:], found[:, :-1])
        similarity[places] = np.where(after, cosines[:, 1:], cosines[:, :-1])
    return Neighbors(index, similarity)


def _best_rows(
    unit: np.ndarray, queries: np.ndarray, query: np.ndarray, other: np.ndarray, distinct: DistinctRows, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `width` rows of each query by (cosine, row) among the rows of its candidate vectors, padded."""
    where, members, begin = distinct.where, distinct.members, distinct.begin
    value = cosine(unit, where[queries[query]], where[other])
    size = np.minimum(begin[other + 1] - begin[other], width)  # no more copies of one vector than places
    copy = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
    query, value = np.repeat(query, size), np.repeat(value, size)
    row = members[np.repeat(begin[other], size) + copy]
    order = np.lexsort((row, -value, query))
    query, value, row = query[order], value[order], row[order]
    rank = np.arange(len(query)) - np.searchsorted(query, np.arange(len(queries)))[query]
    kept = rank < width
    found = np.full((len(queries), width), -1, np.int64)
    cosines = np.full((len(queries), width), np.nan)
    found[query[kept], rank[kept]] = row[kept]
    cosines[query[kept], rank[kept]] = value[kept]
    return found, cosines
