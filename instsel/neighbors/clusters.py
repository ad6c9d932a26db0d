"""Clusters of a whole pool: k-means over the embeddings of all rows, and the row nearest each centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instsel.neighbors.embeddings import unit_rows

SAMPLE = 8192  # distinct rows out of which the first centres are drawn, or PER_CENTRE a centre where that is more
PER_CENTRE = 16
STARTS = 4  # draws of first centres, of which the best over the sample goes on;
MANY_CENTRES = 100  # above these a draw takes long and one is as good as another
MAX_ITERATIONS = 50  # few rows move after these, at 200,000 rows
BLOCK_BYTES = 64 << 20  # of products of rows and centres held at a time
SUM_ROWS = 4096  # rows added to their clusters' sums at a time
FIXED = 2.0**36  # sums are of whole multiples of 1/FIXED: exact, so in any order the same; room for 2**26 rows
SAME_POINT = 1e-12  # squared distance of unit vectors below which a row is not drawn beside a centre


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which cluster each row is in, the largest cluster first.

    `labels` int64 `[n]`, 0 to k - 1, and -1 for a row of zeros, which has no direction; `centres` float64 `[k, d]`,
    the mean of each cluster's unit vectors.
    """

    labels: np.ndarray
    centres: np.ndarray


def cluster_rows(embeddings: object, num_clusters: int = 24, *, seed: int = 0) -> Clusters:
    """Divide rows into clusters by k-means: `min over labels, c of sum_i |x_i / |x_i| - c_label(i)|²`.

    Lloyd's iterations until no row moves (at most 50), from the best of four greedy k-means++ draws (one, for more than
    100 clusters) over a sample of the distinct rows, iterated there first. Equal rows share a cluster. Products are in
    float32 with a bound on their rounding, near ties are settled in float64, and sums are exact: so the result depends
    on the set of rows and on `seed`, not on the order of rows, blocks or threads.

    `embeddings` are numbers `[n, d]`, normalised here. Where there are fewer distinct directions than `num_clusters`,
    there are fewer clusters.

    Raises ValueError where a row is not finite, `num_clusters` is below 1 or `seed` is no whole number of at least 0.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).

    >>> cluster_rows([[1, 0], [0.9, 0.1], [0, 1], [0, 0], [1, 0]], 2).labels
    array([ 0,  0,  1, -1,  0])
    """
    if isinstance(num_clusters, bool) or not isinstance(num_clusters, int | np.integer) or num_clusters < 1:
        raise ValueError(f"num_clusters must be a whole number of at least 1, got {num_clusters!r}")
    check_seed(seed)
    unit = unit_rows(embeddings)
    directed = np.flatnonzero(unit.any(1))
    labels = np.full(len(unit), -1, np.int64)
    if not len(directed):
        return Clusters(labels, np.empty((0, unit.shape[1])))
    vectors, group, weight = _distinct(unit[directed] if len(directed) < len(unit) else unit)
    centres = _first_centres(vectors, weight, int(num_clusters), np.random.default_rng(seed))
    found, sums, sizes = _lloyd(vectors, weight, centres)
    filled = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    place = np.empty(len(sizes), np.int64)
    place[filled] = np.arange(len(filled))
    labels[directed] = place[found][group]
    return Clusters(labels, _means(sums[filled], sizes[filled]))


def check_seed(seed: object) -> None:
    """ValueError unless it gives the same random numbers each time, which None would not."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")


def nearest_to_centres(embeddings: object, clusters: Clusters) -> np.ndarray:
    """Find of each cluster the member nearest its centre, int64 `[k]`; ties to the lower row.

    >>> rows = [[1, 0], [0.8, 0.2], [0.9, 0.1], [0, 1]]
    >>> nearest_to_centres(rows, cluster_rows(rows, 2))
    array([2, 3])
    """
    unit = unit_rows(embeddings)
    if clusters.labels.shape != (len(unit),):
        raise ValueError(f"clusters must be of {len(unit)} rows, one for each embedding, got {len(clusters.labels)}")
    members = np.flatnonzero(clusters.labels >= 0)
    # Of unit vectors the nearest to a centre is the one with the highest inner product.
    closeness = _inner(unit, clusters.centres, members, clusters.labels[members])
    order = members[np.lexsort((members, -closeness, clusters.labels[members]))]
    return order[np.searchsorted(clusters.labels[order], np.arange(len(clusters.centres)))]


def _distinct(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct rows in an order of their own, which of them each row is, and how many rows each is."""
    keys = np.ascontiguousarray(unit).view(np.dtype((np.void, unit.shape[1] * unit.itemsize))).ravel()
    _, first, group, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return unit[first], group, count


def _first_centres(vectors: np.ndarray, weight: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    size = max(SAMPLE, PER_CENTRE * wanted)
    if len(vectors) > size:
        chosen = np.sort(random.choice(len(vectors), size, replace=False))
        vectors, weight = vectors[chosen], weight[chosen]
    points = vectors.astype(np.float64)
    best, most = np.empty(0), -np.inf
    starts = STARTS if wanted <= MANY_CENTRES else 1
    for draw in random.random((starts, wanted, 2 + int(np.log(wanted)))):
        _, sums, sizes = _lloyd(vectors, weight, _draw_centres(points, weight, draw))
        centres = _means(sums, sizes)
        # The sum of squares is a constant minus this.
        between = float((sizes * (centres * centres).sum(1)).sum())
        if between > most:
            best, most = centres[sizes > 0], between
    return best


def _draw_centres(points: np.ndarray, weight: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Greedy k-means++: of rows drawn with probability as their squared distance to the nearest centre so far, the one
    that leaves the lowest sum of these; `draw` is `[centres, rows drawn for each]`."""
    square = np.einsum("nd,nd->n", points, points)
    chosen: list[int] = []
    nearest = np.full(len(points), np.inf)
    mass = weight.astype(np.float64)
    for uniforms in draw:
        total = np.cumsum(mass)
        if not total[-1] > 0:
            break
        last = np.flatnonzero(mass)[-1]  # rounding may put a draw behind the last row that has a mass
        rows = np.minimum(np.searchsorted(total, uniforms * total[-1], side="right"), last)
        best, lowest = nearest, np.inf
        for row in dict.fromkeys(rows.tolist()):
            distance = square + square[row] - 2 * np.einsum("nd,d->n", points, points[row])
            distance[row] = 0.0
            distance = np.minimum(nearest, distance)
            if (left := float((distance * weight).sum())) < lowest:
                best, lowest, drawn = distance, left, row
        chosen.append(drawn)
        nearest = best
        mass = np.where(nearest > SAME_POINT, nearest, 0.0) * weight
    return points[chosen]


def _lloyd(vectors: np.ndarray, weight: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, sums of the clusters in multiples of 1/FIXED and their sizes, once no row moves."""
    labels = np.full(len(vectors), -1, np.int64)
    sums = np.zeros(centres.shape, np.int64)
    sizes = np.zeros(len(centres), np.int64)
    for _ in range(MAX_ITERATIONS):
        found = _nearest_centre(vectors, centres)
        moved = np.flatnonzero(found != labels)
        if not len(moved):
            break
        _add(sums, sizes, vectors, weight, moved, labels[moved], -1)
        _add(sums, sizes, vectors, weight, moved, found[moved], 1)
        labels = found
        # A cluster that ran empty stays where it was.
        centres = np.where(sizes[:, None] > 0, _means(sums, sizes), centres)
    return labels, sums, sizes


def _means(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return sums / FIXED / np.maximum(sizes, 1)[:, None]


def _add(
    sums: np.ndarray,
    sizes: np.ndarray,
    vectors: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    sign: int,
) -> None:
    """Add rows to the sums and sizes of their clusters, or take them out; label -1 is none."""
    order = np.argsort(labels, kind="stable")
    order = order[np.searchsorted(labels[order], 0) :]
    for start in range(0, len(order), SUM_ROWS):
        block = order[start : start + SUM_ROWS]
        cluster, begin = np.unique(labels[block], return_index=True)
        times = sign * weight[rows[block]]
        fixed = np.rint(vectors[rows[block]] * np.float64(FIXED)).astype(np.int64) * times[:, None]
        sums[cluster] += np.add.reduceat(fixed, begin, axis=0)
        sizes[cluster] += np.add.reduceat(times, begin)


def _nearest_centre(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each row, ties to the lower: in float64 where float32 products are too near to tell."""
    import torch

    half = (centres * centres).sum(1) / 2  # the nearest centre has the highest x·c - |c|²/2
    columns = torch.from_numpy(centres.astype(np.float32)).T
    offset = torch.from_numpy(half.astype(np.float32))
    error = (vectors.shape[1] + 8) * 2.0**-24  # of that in float32, for |x| and |c| of at most 1
    labels = np.empty(len(vectors), np.int64)
    step = max(1, BLOCK_BYTES // (4 * len(centres)))
    for start in range(0, len(vectors), step):
        value = torch.from_numpy(vectors[start : start + step]) @ columns - offset
        highest, place = value.max(1, keepdim=True)
        labels[start : start + step] = place[:, 0].numpy()
        second = value.scatter(1, place, -torch.inf).amax(1, keepdim=True)
        open_rows = np.flatnonzero((second >= highest - 2 * error).numpy())
        row, cluster = (value[open_rows] >= highest[open_rows] - 2 * error).numpy().nonzero()
        exact = _inner(vectors, centres, start + open_rows[row], cluster) - half[cluster]
        order = np.lexsort((cluster, -exact, row))
        labels[start + open_rows] = cluster[order][np.searchsorted(row[order], np.arange(len(open_rows)))]
    return labels


def _inner(vectors: np.ndarray, centres: np.ndarray, rows: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Inner products of rows and centres in float64, each summed in one order whatever else is in the batch."""
    out = np.empty(len(rows))
    step = max(1, (1 << 17) // max(1, vectors.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        out[block] = (vectors[rows[block]].astype(np.float64) * centres[clusters[block]]).sum(1)
    return out
