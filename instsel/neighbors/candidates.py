"""Candidates for nearest neighbours: of each vector a few others, among which its nearest are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

EXACT_LIMIT = 200_000  # distinct rows up to which every pair is compared
SPARE, NARROW_SPARE = 8, 96  # candidates kept beyond those asked for, so that few queries need a second look
GROUP = 64  # columns whose largest similarity is taken first
BLOCK_BYTES = 384 << 20  # of similarities held at a time: blocks of bfloat16 are fast from about a thousand rows

Block = tuple[int, int, np.ndarray, np.ndarray]  # low, high, query - low, other


@dataclass(frozen=True, slots=True)
class Products:
    """Inner products of unit vectors in one dtype.

    columns  all vectors [m, d], with zeros behind the last up to a multiple of GROUP
    room     for the products of a block of rows [r, m]
    error    by how much a product may be off, in any order of summation
    spare    candidates kept beyond those asked for
    """

    columns: Tensor
    room: Tensor
    error: float
    spare: int


def exact_candidates(vectors: np.ndarray, wanted: int) -> Iterator[Block]:
    """For blocks [low, high) of unit vectors: flat (query - low, other) pairs that hold each query's nearest `wanted`.

    Where the processor multiplies bfloat16 as such, that comes first: it takes half the time or less. The queries
    whose nearest it cannot tell from the rest are compared in float32.
    """
    count = len(vectors)
    looks = _products(vectors)
    step = len(looks[0].room)
    for low in range(0, count, step):
        high = min(low + step, count)
        unsettled, found = np.arange(low, high), []
        for look in looks:
            parts = [unsettled[start : start + len(look.room)] for start in range(0, len(unsettled), len(look.room))]
            left = []
            for rows in parts:
                query, other, rest = _nearest(look, rows, count, wanted, last=look is looks[-1])
                found.append((query - low, other))
                left.append(rest)
            unsettled = np.concatenate([*left, unsettled[:0]])
        yield low, high, np.concatenate([query for query, _ in found]), np.concatenate([other for _, other in found])


def _products(vectors: np.ndarray) -> list[Products]:
    import torch

    from instsel.kernels.native_arrays import has_bfloat16_products

    count, dimension = vectors.shape
    columns = torch.zeros((-(-count // GROUP) * GROUP, dimension))
    columns[:count] = torch.from_numpy(vectors)
    width = len(columns)

    def room(dtype: torch.dtype) -> Tensor:
        return torch.empty((min(count, max(1, BLOCK_BYTES // (dtype.itemsize * width))), width), dtype=dtype)

    # In float32 each term and each sum is rounded by at most 2**-24 of itself. With bfloat16 both vectors and the
    # product are rounded by at most 2**-8 besides; the last two terms are more than what these errors add to another.
    single = (dimension + 2) * 2.0**-24
    narrow = 2.0**-7 + 2.0**-8 + 2.0**-14 + 2 * single
    looks = [Products(columns, room(torch.float32), single, SPARE)]
    if has_bfloat16_products():
        looks.insert(0, Products(columns.bfloat16(), room(torch.bfloat16), narrow, NARROW_SPARE))
    return looks


def _nearest(
    look: Products, rows: np.ndarray, count: int, wanted: int, *, last: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (row, other) that hold the nearest `wanted` of `rows`, but for the rows for which these cannot be told.

    The `last` look settles these as well: there every other within rounding is a candidate.
    """
    import torch

    block = torch.mm(look.columns[torch.from_numpy(rows)], look.columns.T, out=look.room[: len(rows)])
    block[:, count:] = -torch.inf
    kept = min(wanted + look.spare, count)
    groups = min(kept, block.shape[1] // GROUP)
    # The best `kept` columns lie in the `kept` groups with the largest maxima: two small searches, not a large one.
    grouped = block.view(len(rows), -1, GROUP)
    best = grouped.amax(2).topk(groups, dim=1).indices
    value, place = grouped.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1).topk(kept, dim=1)
    other = best.gather(1, place // GROUP) * GROUP + place % GROUP
    # A column left out is at most value[:, -1]: it may belong only where that is within rounding of the last place.
    value = value.float()
    near = (value[:, wanted - 1] - 2 * look.error).clamp(min=-2)
    settled = (value[:, -1] < near) if kept < count else torch.ones(len(rows), dtype=torch.bool)
    query, column = (settled[:, None] & (value >= near[:, None])).nonzero(as_tuple=True)
    pairs = [(query, other[query, column])]
    left = (~settled).nonzero()[:, 0]
    if last and len(left):
        query, column = (block[left] >= near[left, None]).nonzero(as_tuple=True)
        pairs.append((left[query], column))
        left = left[:0]
    found, near_by = (torch.cat(each).numpy() for each in zip(*pairs, strict=True))
    return rows[found], near_by, rows[left.numpy()]


def index_candidates(vectors: np.ndarray, wanted: int) -> Iterator[Block]:
    """As `exact_candidates`, out of an inverted-file index: an eighth of the lists are searched."""
    try:
        import faiss
    except ImportError:
        raise ValueError(
            f"embeddings has {len(vectors)} distinct rows; beyond {EXACT_LIMIT} the search needs faiss: "
            "pip install 'instsel[index]'"
        ) from None
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
