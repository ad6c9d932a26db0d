"""k-means over a whole pool: against every distance in float64, scikit-learn, and itself in other orders and blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from instsel.neighbors import clusters
from instsel.neighbors.clusters import Clusters, cluster_rows, nearest_to_centres
from instsel.neighbors.embeddings import unit_rows


@pytest.mark.parametrize("seed", [-1, None, 0.5])
def test_seeds_that_would_not_repeat(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        cluster_rows(np.eye(3), 2, seed=seed)


def blobs(count: int, rows: int, dimension: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, count, rows)
    return rng.normal(size=(count, dimension))[truth] + spread * rng.normal(size=(rows, dimension)), truth


def sum_of_squares(embeddings: np.ndarray, labels: np.ndarray) -> float:
    unit = unit_rows(embeddings).astype(np.float64)
    parts = [unit[labels == label] for label in np.unique(labels)]
    return sum(float(((part - part.mean(0)) ** 2).sum()) for part in parts)


def same(one: Clusters, other: Clusters) -> bool:
    return one.labels.tobytes() == other.labels.tobytes() and one.centres.tobytes() == other.centres.tobytes()


def test_blobs_are_found_and_numbered_by_size() -> None:
    embeddings, truth = blobs(12, 2000, 20, 0.1)
    found = cluster_rows(embeddings, 12)
    assert len({(a, b) for a, b in zip(truth.tolist(), found.labels.tolist(), strict=True)}) == 12
    sizes = np.bincount(found.labels)
    assert (np.diff(sizes) <= 0).all() and len(sizes) == len(found.centres) == 12


def test_each_row_is_with_its_nearest_centre_and_each_centre_is_its_mean() -> None:
    embeddings, _ = blobs(40, 1500, 12, 0.6)
    found = cluster_rows(embeddings, 15)
    unit = unit_rows(embeddings).astype(np.float64)
    distance = ((unit[:, None] - found.centres[None]) ** 2).sum(2)
    assert distance.argmin(1).tolist() == found.labels.tolist()
    means = np.stack([unit[found.labels == label].mean(0) for label in range(15)])
    np.testing.assert_allclose(found.centres, means, rtol=0, atol=1e-10)


@pytest.mark.long
@pytest.mark.parametrize(("count", "spread"), [(24, 0.6), (200, 0.3)])
def test_as_good_as_scikit_learn(count: int, spread: float) -> None:
    embeddings, _ = blobs(count, 4000, 24, spread)
    ours = [sum_of_squares(embeddings, cluster_rows(embeddings, 24, seed=seed).labels) for seed in range(8)]
    theirs = [
        KMeans(24, n_init=4, random_state=seed).fit(unit_rows(embeddings).astype(np.float64)).inertia_
        for seed in range(8)
    ]
    assert np.mean(ours) < 1.02 * np.mean(theirs)
    shuffled = np.random.default_rng(0).permutation(cluster_rows(embeddings, 24).labels)
    assert sum_of_squares(embeddings, shuffled) > 1.2 * np.mean(theirs), "this bound tells clusters from none"


@pytest.mark.long
def test_neither_blocks_nor_threads_nor_the_order_of_rows_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    embeddings, _ = blobs(20, 600, 8, 0.5)
    embeddings[100:200] = embeddings[:100]
    monkeypatch.setattr(clusters, "SAMPLE", 200)
    found = cluster_rows(embeddings, 20, seed=3)
    order = np.random.default_rng(1).permutation(len(embeddings))
    assert cluster_rows(embeddings[order], 20, seed=3).labels.tolist() == found.labels[order].tolist()
    assert not same(cluster_rows(embeddings, 20, seed=4), found)
    threads = torch.get_num_threads()
    try:
        for bytes_, rows, used in ((1, 1, 1), (4 * 20 * 7, 13, 2), (1 << 20, 1 << 20, 1)):
            monkeypatch.setattr(clusters, "BLOCK_BYTES", bytes_)
            monkeypatch.setattr(clusters, "SUM_ROWS", rows)
            torch.set_num_threads(used)
            assert same(cluster_rows(embeddings, 20, seed=3), found)
    finally:
        torch.set_num_threads(threads)


def test_rows_closer_than_float32_can_tell_are_settled_in_float64() -> None:
    rng = np.random.default_rng(0)
    unit = unit_rows(1 + 1e-4 * rng.normal(size=(400, 8)))
    centres = unit[:9].astype(np.float64)
    distance = ((unit.astype(np.float64)[:, None] - centres[None]) ** 2).sum(2)
    found = clusters._nearest_centre(unit, centres)
    best = distance.min(1)
    assert (distance[np.arange(400), found] - best).max() < 1e-14
    in_float32 = (unit @ centres.astype(np.float32).T - ((centres**2).sum(1) / 2).astype(np.float32)).argmax(1)
    assert (distance[np.arange(400), in_float32] - best).max() > 1e-10, "float32 alone gets some wrong"


def test_equal_rows_share_a_cluster_and_rows_of_zeros_have_none() -> None:
    embeddings, _ = blobs(5, 300, 6, 0.8)
    embeddings[200:] = embeddings[:100]
    embeddings[[7, 250]] = 0
    found = cluster_rows(embeddings, 30)
    assert found.labels[[7, 250]].tolist() == [-1, -1] and (np.delete(found.labels, [7, 250]) >= 0).all()
    pairs = [i for i in range(100) if i not in (7, 50)]
    assert found.labels[pairs].tolist() == found.labels[[200 + i for i in pairs]].tolist()


def test_fewer_directions_than_clusters() -> None:
    found = cluster_rows([[1, 0], [2, 0], [0, 1], [0, 0]], 24)
    assert found.labels.tolist() == [0, 0, 1, -1] and found.centres.tolist() == [[1, 0], [0, 1]]
    assert cluster_rows(np.zeros((3, 2)), 2).labels.tolist() == [-1, -1, -1]
    assert cluster_rows(np.zeros((0, 2)), 2).centres.shape == (0, 2)
    for wrong in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="num_clusters must be a whole number of at least 1"):
            cluster_rows(np.eye(3), wrong)  # type: ignore[arg-type]


def test_the_row_nearest_each_centre() -> None:
    embeddings, _ = blobs(30, 800, 10, 0.5)
    embeddings[0] = 0
    found = cluster_rows(embeddings, 17)
    unit = unit_rows(embeddings).astype(np.float64)
    chosen = nearest_to_centres(embeddings, found)
    assert found.labels[chosen].tolist() == list(range(17))
    for label, row in enumerate(chosen):
        members = np.flatnonzero(found.labels == label)
        assert row == members[((unit[members] - found.centres[label]) ** 2).sum(1).argmin()]
    copies = np.repeat(embeddings[1:], 2, axis=0)
    assert (nearest_to_centres(copies, cluster_rows(copies, 17)) % 2 == 0).all(), "ties go to the lower row"
    with pytest.raises(ValueError, match="clusters must be of 800 rows"):
        nearest_to_centres(embeddings, cluster_rows(embeddings[1:], 3))
