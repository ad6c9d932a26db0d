"""Nearest neighbours by cosine: exact up to 200,000 distinct rows, through a faiss index above."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.neighbors.embeddings import cosine, unit_rows
from instsel.optional_packages import need_package

EXACT_LIMIT = 200_000  # distinct rows up to which every pair is compared
SPARE = 8  # candidates kept beyond those asked for, so that rounding near the last place seldom needs a second look
GROUP = 64  # columns whose largest similarity is taken first
BLOCK_BYTES = 256 << 20  # of similarities held at a time


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
    find = _exact_candidates if len(vectors) <= exact_limit else _index_candidates
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


def _exact_candidates(vectors: np.ndarray, wanted: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """For blocks [low, high) of vectors: flat (query - low, other) pairs that hold each query's nearest `wanted`."""
    import torch

    count, dimension = vectors.shape
    padded = -(-count // GROUP) * GROUP
    columns = torch.zeros((padded, dimension))
    columns[:count] = torch.from_numpy(vectors)
    error = (dimension + 2) * 2.0**-24  # of an inner product of unit vectors in float32, in any order of summation
    kept = min(wanted + SPARE, count)
    groups = min(kept, padded // GROUP)
    step = max(1, BLOCK_BYTES // (4 * padded))
    buffer = torch.empty((min(step, count), padded))
    for low in range(0, count, step):
        high = min(low + step, count)
        block = buffer[: high - low]
        torch.mm(columns[low:high], columns.T, out=block)
        block[:, count:] = -torch.inf
        # The best `kept` columns lie in the `kept` groups with the largest maxima: two small searches, not a large one.
        grouped = block.view(high - low, -1, GROUP)
        best = grouped.amax(2).topk(groups, dim=1).indices
        inside = grouped.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
        value, place = inside.topk(kept, dim=1)
        other = (best.gather(1, place // GROUP) * GROUP + place % GROUP).numpy()
        query = np.repeat(np.arange(high - low), kept).reshape(other.shape)
        # A column left out is at most value[:, -1] in float32: it may belong only where that is within rounding of
        # the last place (or of a tie at it). There every column within rounding is looked at.
        near = (value[:, wanted - 1] - 2 * error).clamp(min=-2)
        open_ended = ((value[:, -1] >= near) & (kept < count)).numpy()
        settled = ~open_ended
        more_query, more_other = (block[open_ended] >= near[open_ended, None]).numpy().nonzero()
        yield (
            low,
            high,
            np.concatenate([query[settled].ravel(), np.flatnonzero(open_ended)[more_query]]),
            np.concatenate([other[settled].ravel(), more_other]),
        )


def _index_candidates(vectors: np.ndarray, wanted: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """As `_exact_candidates`, out of an inverted-file index: an eighth of the lists are searched."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            f"embeddings has {len(vectors)} distinct rows; beyond {EXACT_LIMIT} the search needs faiss: "
            "pip install 'instsel[index]'"
        ) from None
    need_package("faiss-cpu", "faiss", ">=1.8", extra="index")
    count, dimension = vectors.shape
    lists = int(4 * np.sqrt(count))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(vectors)
    index.add(vectors)
    index.nprobe = max(1, lists // 8)
    step = 16_384
    for low in range(0, count, step):
        high = min(low + step, count)
        _, other = index.search(vectors[low:high], min(wanted + SPARE, count))
        query = np.repeat(np.arange(high - low), other.shape[1]).reshape(other.shape)
        found = other >= 0
        yield low, high, query[found], other[found]


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
