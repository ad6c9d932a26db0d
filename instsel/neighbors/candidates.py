"""Candidates for nearest neighbours: of each query a few vectors, among which its nearest are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.optional_packages import need_package

if TYPE_CHECKING:
    import torch
    from torch import Tensor

EXACT_LIMIT = 200_000  # distinct rows up to which every pair is compared where one process searches for all rows
SPARE = 8  # candidates that the index gives beyond those asked for
GROUP = 64  # columns, at most, whose largest product is taken first
TILE_ROWS = 4096  # vectors multiplied with as many others at a time: in bfloat16 their products stay in the cache
LAST_ROWS = 1024  # queries at a time where candidates are not limited
KEPT_BYTES = 256 << 20  # of tiles kept, not made again

# Of queries and vectors [low, high, query - low, other]: pairs that hold each query's nearest.
Candidates = Iterator[tuple[int, int, np.ndarray, np.ndarray]]


def exact_candidates(unit: np.ndarray, where: np.ndarray, queries: np.ndarray, wanted: int) -> Candidates:
    """Of vectors `unit[where]`, for blocks [low, high) of queries: pairs that hold the nearest `wanted` of each.

    Products are compared by the bound on their rounding, so that no candidate is missed. Where the processor
    multiplies bfloat16 as such, that comes first; queries of which it leaves too many candidates are compared again
    in float32. With all vectors for queries, the products of two tiles serve the rows of both.
    """
    import torch

    from instsel.kernels.native_arrays import has_bfloat16_products

    first = _Tiles(unit, where, torch.bfloat16 if has_bfloat16_products() else torch.float32, wanted)
    last = _Tiles(unit, where, torch.float32, wanted)
    search = _among_themselves if len(queries) == len(where) else _against_all
    for low, nearest in search(first, queries, wanted, 8 * wanted + 128):
        query, other, crowded = nearest.found()
        pairs = [(query, other)]
        for start in range(0, len(crowded), LAST_ROWS):
            some = crowded[start : start + LAST_ROWS]
            for _, again in _against_all(last, queries[low + some], wanted, None):
                query, other, _ = again.found()
                pairs.append((some[query], other))
        high = min(low + TILE_ROWS, len(queries))
        yield low, high, np.concatenate([one for one, _ in pairs]), np.concatenate([two for _, two in pairs])


@dataclass(frozen=True, slots=True)
class _Tile:
    """Vectors rounded to a dtype, padded with zeros to whole groups; those next to each other lie in different groups.

    vectors   [p, d]
    place     int64 [p], which of the tile's vectors, -1 for padding
    padding   int64, where there is padding
    number    int64 [p], which of all vectors
    residual  float32 [p], no less than the length of what rounding took away
    """

    vectors: Tensor
    place: Tensor
    padding: Tensor
    number: Tensor
    residual: Tensor


class _Tiles:
    """All vectors in tiles of one dtype."""

    def __init__(self, unit: np.ndarray, where: np.ndarray, dtype: torch.dtype, wanted: int) -> None:
        self.count = -(-len(where) // TILE_ROWS)
        # The first tile is to tell good candidates from others, so it has more groups than vectors are wanted.
        self.group = GROUP
        while self.group > 1 and min(TILE_ROWS, len(where)) < 2 * wanted * self.group:
            self.group //= 2
        narrow = dtype.itemsize < 4
        # Sums are rounded to float32, in any order; and then to bfloat16 by at most 2**-9 between -1 and 1.
        self.rounding = (unit.shape[1] + 2) * (2.0**-23 if narrow else 2.0**-24) + (2.0**-9 if narrow else 0.0)
        self._unit, self._where, self._dtype = unit, where, dtype
        self._kept: dict[int, _Tile] = {}
        self._room = KEPT_BYTES
        self._products: Tensor | None = None

    def __getitem__(self, place: int) -> _Tile:
        if place in self._kept:
            return self._kept[place]
        tile = self.of(np.arange(place * TILE_ROWS, min((place + 1) * TILE_ROWS, len(self._where))))
        self._room -= tile.vectors.nbytes
        if self._room >= 0:
            self._kept[place] = tile
        return tile

    def of(self, numbers: np.ndarray) -> _Tile:
        """A tile of the vectors with these numbers."""
        import torch

        groups = -(-len(numbers) // self.group)
        place = torch.arange(groups * self.group).view(self.group, groups).T.flatten()
        place = place.where(place < len(numbers), -1)
        padding = (place < 0).nonzero()[:, 0]
        number = torch.from_numpy(numbers)[place]
        vectors = torch.from_numpy(self._unit[self._where[number.numpy()]])
        vectors[padding] = 0
        rounded = vectors.to(self._dtype)
        residual = (vectors - rounded.float()).norm(dim=1) * (1 + 2.0**-10)
        return _Tile(rounded, place, padding, number, residual)

    def products(self, rows: _Tile, columns: _Tile) -> Tensor:
        """Inner products [rows, columns], -1 with padding; the next call overwrites them."""
        import torch

        shape = len(rows.vectors), len(columns.vectors)
        if self._products is None or self._products.numel() < shape[0] * shape[1]:
            self._products = torch.empty(shape[0] * shape[1], dtype=self._dtype)
        block = self._products[: shape[0] * shape[1]].view(shape)
        torch.mm(rows.vectors, columns.vectors.T, out=block)
        block[:, columns.padding] = -1
        block[rows.padding] = -1
        return block


class _Nearest:
    """The candidates of a tile's vectors, as far as other tiles have been compared with it.

    Of every product there is a bound on how far it is from the cosine. A vector is a candidate where its highest
    possible cosine reaches the lowest possible one of the `wanted`th best so far; with more than `most` of them a
    query is crowded and has none.
    """

    def __init__(self, rows: _Tile, tiles: _Tiles, wanted: int, most: int | None) -> None:
        import torch

        self._rows, self._most, self._rounding, self._group = rows, most, tiles.rounding, tiles.group
        self._best = np.full((len(rows.place), wanted), -2, np.float32)  # lowest possible cosines, the lowest first
        self._best[rows.padding.numpy()] = np.inf
        self._query, self._other = torch.zeros(2, 0, dtype=torch.int64).unbind()
        self._highest = torch.zeros(0)
        self._worth_a_look = 0  # number of pairs

    def take(self, products: Tensor, columns: _Tile) -> None:
        """Compare with a tile, by products [rows, columns]."""
        import torch

        error = self._rows.residual + (columns.residual.max() * (1 + 2.0**-7) + self._rounding)
        largest = _largest(products, self._group).float().clamp_(-1, 1)
        # The best of different groups are different vectors, so their wanted-th is no better than that of all.
        best = np.concatenate([self._best, (largest - error[:, None]).numpy()], 1)
        self._best = np.partition(best, largest.shape[1], axis=1)[:, largest.shape[1] :]
        lowest = torch.from_numpy(self._best[:, 0]) - error
        query, group = (largest.where(largest >= 0, 0) >= lowest[:, None]).nonzero(as_tuple=True)
        inside = products.unflatten(1, (-1, self._group))[query, group].float().clamp_(-1, 1)
        hit, place = (inside >= lowest[query, None]).nonzero(as_tuple=True)
        query, column = query[hit], group[hit] * self._group + place
        self._query = torch.cat([self._query, query])
        self._other = torch.cat([self._other, torch.where(columns.place[column] < 0, -1, columns.number[column])])
        self._highest = torch.cat([self._highest, inside[hit, place] + error[query]])
        if len(self._query) > self._worth_a_look:
            self._weed()
            self._worth_a_look = 2 * len(self._query) + len(self._best)

    def found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places among the tile's vectors and their candidates, in pairs; and places of those that are crowded."""
        self._weed()
        place = self._rows.place.numpy()
        crowded = place[np.isinf(self._best[:, 0]) & (place >= 0)]
        return place[self._query.numpy()], self._other.numpy(), crowded

    def _weed(self) -> None:
        """Drop what is no candidate any more, and crowded queries."""
        import torch

        self._keep((self._highest >= torch.from_numpy(self._best[:, 0])[self._query]) & (self._other >= 0))
        if self._most is not None:
            crowded = torch.bincount(self._query, minlength=len(self._best)) > self._most
            self._best[crowded.numpy()] = np.inf
            self._keep(~crowded[self._query])

    def _keep(self, kept: Tensor) -> None:
        self._query, self._other, self._highest = self._query[kept], self._other[kept], self._highest[kept]


def _largest(products: Tensor, group: int) -> Tensor:
    """The largest product of each row and group of columns, [rows, groups]; where all are negative, one of them.

    The bits of floating-point numbers rise with them as whole numbers do, but for the negative ones; and the largest
    of whole numbers is found ten times as fast.
    """
    import torch

    bits = products.view(torch.int16 if products.dtype == torch.bfloat16 else torch.int32)
    if bits.is_contiguous():
        largest = bits.view(len(bits), -1, group).amax(2)
    else:  # the transpose of one that is
        largest = bits.T.view(-1, group, len(bits)).amax(1).T.contiguous()
    return largest.view(products.dtype)


def _against_all(tiles: _Tiles, queries: np.ndarray, wanted: int, most: int | None) -> Iterator[tuple[int, _Nearest]]:
    """Where each block of queries begins, and what it found in all tiles."""
    for low in range(0, len(queries), TILE_ROWS):
        rows = tiles.of(queries[low : low + TILE_ROWS])
        nearest = _Nearest(rows, tiles, wanted, most)
        for place in range(tiles.count):
            columns = tiles[place]
            nearest.take(tiles.products(rows, columns), columns)
        yield low, nearest


def _among_themselves(
    tiles: _Tiles, queries: np.ndarray, wanted: int, most: int | None
) -> Iterator[tuple[int, _Nearest]]:
    """The same where every vector is a query: the blocks are the tiles, and two of them are multiplied once."""
    blocks = {place: _Nearest(tiles[place], tiles, wanted, most) for place in range(tiles.count)}
    for place in range(tiles.count):
        rows = tiles[place]
        for other in range(place, tiles.count):
            columns = tiles[other]
            products = tiles.products(rows, columns)
            blocks[place].take(products, columns)
            if other > place:
                blocks[other].take(products.T, rows)
        yield place * TILE_ROWS, blocks.pop(place)


def index_candidates(unit: np.ndarray, where: np.ndarray, queries: np.ndarray, wanted: int) -> Candidates:
    """As `exact_candidates`, out of an inverted-file index of faiss: an eighth of the lists are searched."""
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
