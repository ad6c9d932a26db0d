"""Nearest neighbours by cosine: exact, a block of rows against blocks of all rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.neighbors.embeddings import cosine, unit_rows
from instsel.neighbors.mapped_rows import BLOCK_ROWS, Prepared, rows_of
from instsel.optional_packages import need_package

EXACT_LIMIT = 200_000  # distinct rows up to which every pair is compared where one process searches for all rows
SPARE = 8  # candidates kept beyond those asked for, so that rounding near the last place seldom needs a second look
GROUP = 64  # columns whose largest similarity is taken first
QUERY_ROWS, TILE_ROWS = 1024, 32_768  # similarities are held for so many rows with so many others: 128 MiB

# Of queries and vectors [low, high, query - low, other]: pairs that hold each query's nearest.
Candidates = Iterator[tuple[int, int, np.ndarray, np.ndarray]]


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


def nearest_neighbors(embeddings: Any, num_neighbors: int = 32, *, exact_limit: int = EXACT_LIMIT) -> Neighbors:
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
    find = _exact_candidates if len(distinct.where) <= exact_limit else _index_candidates
    return _neighbors(unit, range(len(unit)), int(num_neighbors), distinct, find)


def neighbors_of(unit: np.ndarray, rows: range, num_neighbors: int) -> Neighbors:
    """Of some rows the `num_neighbors` nearest of all rows: those rows of `nearest_neighbors`, however many there are.

    `unit` is float32 `[n, d]` as from `unit_rows`, in memory or memory-mapped. What is prepared for it is kept for the
    next rows, so that a pool is searched in slices.

    >>> neighbors_of(unit_rows([[1, 0], [0.6, 0.8], [0, 1], [1, 0]]), range(2, 4), 2).index
    array([[1, 0],
           [0, 1]])
    """
    return _neighbors(unit, rows, num_neighbors, _prepared(unit), _exact_candidates)


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


def _exact_candidates(unit: np.ndarray, where: np.ndarray, queries: np.ndarray, wanted: int) -> Candidates:
    """Of vectors `unit[where]`, for blocks [low, high) of queries: pairs that hold the nearest `wanted` of each."""
    import torch

    count = len(where)
    tiles = _Tiles(unit, where)
    error = (unit.shape[1] + 2) * 2.0**-24  # of an inner product of unit vectors in float32, in any order of summation
    kept = min(wanted + SPARE, count)
    for low in range(0, len(queries), QUERY_ROWS):
        high = min(low + QUERY_ROWS, len(queries))
        rows = torch.from_numpy(unit[where[queries[low:high]]])
        value, other = torch.empty((high - low, 0)), torch.empty((high - low, 0), dtype=torch.int64)
        for start, block in tiles.times(rows):
            # A tile's best `kept` lie in the `kept` groups with the largest maxima: two small searches, not one large.
            grouped = block.view(high - low, -1, GROUP)
            best = grouped.amax(2).topk(min(kept, grouped.shape[1]), dim=1).indices
            inside = grouped.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
            tops, place = inside.topk(min(kept, inside.shape[1]), dim=1)
            columns = start + best.gather(1, place // GROUP) * GROUP + place % GROUP
            value, order = torch.cat([value, tops], 1).topk(min(kept, value.shape[1] + tops.shape[1]), dim=1)
            other = torch.cat([other, columns], 1).gather(1, order)
        query = np.repeat(np.arange(high - low), kept).reshape(other.shape)
        # A column left out is at most value[:, -1] in float32: it may belong only where that is within rounding of
        # the last place (or of a tie at it). There every column within rounding is looked at.
        near = (value[:, wanted - 1] - 2 * error).clamp(min=-2)
        open_ended = (value[:, -1] >= near) & (kept < count)
        settled = ~open_ended.numpy()
        pairs = [(query[settled].ravel(), other.numpy()[settled].ravel())]
        if open_ended.any():
            again = np.flatnonzero(~settled)
            for start, block in tiles.times(rows[open_ended]):
                more, columns = (block >= near[open_ended, None]).numpy().nonzero()
                pairs.append((again[more], start + columns))
        yield low, high, np.concatenate([one for one, _ in pairs]), np.concatenate([two for _, two in pairs])


class _Tiles:
    """Inner products of some rows with all vectors, a tile of vectors at a time."""

    def __init__(self, unit: np.ndarray, where: np.ndarray) -> None:
        self._unit, self._where = unit, where
        self._last: tuple[int, Any] | None = None  # the only tile, where there is but one

    def times(self, rows: Any) -> Iterator[tuple[int, Any]]:
        """The first vector of each tile and products [rows, vectors], padded with -infinity to whole groups."""
        import torch

        for start in range(0, len(self._where), TILE_ROWS):
            block = torch.mm(rows, self._tile(start).T)
            block[:, len(self._where) - start :] = -torch.inf
            yield start, block

    def _tile(self, start: int) -> Any:
        import torch

        if self._last is None or self._last[0] != start:
            vectors = self._unit[self._where[start : start + TILE_ROWS]]
            tile = torch.zeros((-(-len(vectors) // GROUP) * GROUP, vectors.shape[1]))
            tile[: len(vectors)] = torch.from_numpy(vectors)
            self._last = start, tile
        return self._last[1]


def _index_candidates(unit: np.ndarray, where: np.ndarray, queries: np.ndarray, wanted: int) -> Candidates:
    """As `_exact_candidates`, out of an inverted-file index: an eighth of the lists are searched."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            f"embeddings has {len(where)} distinct rows; beyond {EXACT_LIMIT} the search needs faiss: "
            "pip install 'instsel[index]'"
        ) from None
    need_package("faiss-cpu", "faiss", ">=1.8", extra="index")
    vectors = unit[where]
    count, dimension = vectors.shape
    lists = int(4 * np.sqrt(count))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    index.nprobe = max(1, lists // 8)
    step = 16_384
    for low in range(0, len(queries), step):
        high = min(low + step, len(queries))
        _, other = index.search(vectors[queries[low:high]], min(wanted + SPARE, count))
        query = np.repeat(np.arange(high - low), other.shape[1]).reshape(other.shape)
        found = other >= 0
        yield low, high, query[found], other[found]


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
