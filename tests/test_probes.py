"""Probes: k-means against scikit-learn, and the most complex member of each cluster against a loop."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from instsel.neighbors.embeddings import unit_rows
from instsel.neighbors.nearest import nearest_neighbors
from instsel.neighbors.probes import Probes, check_sizes, kmeans, probes_among


def find_probes(embeddings: Any, complexity: Any, *, num_neighbors: int = 32, num_probes: int = 5) -> Probes:
    """The probes of rows among their nearest neighbours, as the stages of a method find them."""
    unit = unit_rows(embeddings)
    neighbors = nearest_neighbors(unit, num_neighbors)
    return probes_among(unit, np.asarray(complexity, np.float64), neighbors, num_probes=num_probes)


def sets_of_points(count: int, dimension: int, spread: float, seed: int = 0) -> np.ndarray:
    """Unit vectors about seven centres, 32 a set."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 7, dimension))
    points = centres[np.arange(count)[:, None], rng.integers(0, 7, (count, 32))]
    points = points + spread * rng.normal(size=points.shape)
    return unit_rows(points.reshape(-1, dimension)).reshape(points.shape).astype(np.float64)


def sum_of_squares(points: np.ndarray, labels: np.ndarray) -> float:
    clusters = [points[labels == label] for label in np.unique(labels[labels >= 0])]
    return float(sum(((cluster - cluster.mean(0)) ** 2).sum() for cluster in clusters))


@pytest.mark.long
@pytest.mark.parametrize(("dimension", "spread"), [(384, 1.0), (64, 0.4), (2, 1.0)])
def test_as_low_as_scikit_learn(dimension: int, spread: float) -> None:
    points = sets_of_points(40, dimension, spread)
    labels, inertia = kmeans(points, 5)
    direct = [sum_of_squares(p, one) for p, one in zip(points, labels, strict=True)]
    np.testing.assert_allclose(inertia, direct, atol=1e-9)
    with threadpool_limits(1):  # threads cost more than they give on 32 points
        theirs = np.array([KMeans(5, n_init=10, random_state=0).fit(p).inertia_ for p in points])
        once = np.array([KMeans(5, n_init=1, max_iter=15, random_state=0).fit(p).inertia_ for p in points])
    assert np.mean(inertia / theirs) < 1.03, "of ten starts of scikit-learn, on average"
    assert np.mean(inertia / once) < 1.0, "of one start, as the wICI authors' program has it"
    # The control: points handed out by turns, which any of these figures must tell from clusters.
    by_turns = [sum_of_squares(p, np.arange(32) % 5) for p in points]
    assert np.mean(by_turns / theirs) > 1.2


def test_a_set_does_not_depend_on_its_batch() -> None:
    points = sets_of_points(40, 16, 0.8)
    labels, inertia = kmeans(points, 5, seed=3)
    for i in range(40):
        alone, lowest = kmeans(points[i : i + 1], 5, seed=3)
        assert alone[0].tolist() == labels[i].tolist()
        assert lowest[0] == inertia[i]


def test_padding_is_not_there() -> None:
    points = sets_of_points(20, 8, 0.8)
    present = np.ones((20, 32), bool)
    present[:, 20:] = False
    labels, inertia = kmeans(points, 5, present=present)
    cut, lowest = kmeans(points[:, :20], 5)
    assert labels[:, :20].tolist() == cut.tolist()
    assert (labels[:, 20:] == -1).all()
    np.testing.assert_allclose(inertia, lowest, atol=1e-12)
    assert kmeans(points[:1], 5, present=np.zeros((1, 32), bool))[0].tolist() == [[-1] * 32]


@pytest.mark.parametrize("distinct", [1, 2, 4, 5, 6])
def test_copies_share_a_cluster(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    different = unit_rows(rng.normal(size=(distinct, 6))).astype(np.float64)
    kind = rng.permutation(np.arange(32) % distinct)
    labels, inertia = kmeans(different[kind][None], 5)
    for i in range(distinct):
        assert len(set(labels[0, kind == i].tolist())) == 1
    assert len(set(labels[0].tolist())) == min(distinct, 5)
    assert inertia[0] < 1e-9 or distinct == 6


def by_loop(embeddings: np.ndarray, complexity: np.ndarray, neighbors: int, probes: int) -> list[list[int]]:
    """Each row by itself, in plain Python; only the labels are the module's own."""
    unit = unit_rows(embeddings)
    out = []
    for row in nearest_neighbors(embeddings, neighbors).index:
        labels = kmeans(unit[row][None].astype(np.float64), probes)[0][0]
        chosen = []
        for label in set(labels.tolist()):
            members = [int(r) for r, one in zip(row, labels, strict=True) if one == label]
            chosen.append(min(members, key=lambda r: (-np.nan_to_num(complexity[r], nan=-np.inf), r)))
        out.append(sorted(chosen, key=lambda r, row=row: row.tolist().index(r)))
    return out


def test_of_each_cluster_the_most_complex() -> None:
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(120, 16))
    complexity = rng.integers(0, 4, 120).astype(float)  # with ties
    complexity[rng.random(120) < 0.3] = np.nan
    found = find_probes(embeddings, complexity, num_neighbors=20, num_probes=4)
    assert found.index.tolist() == by_loop(embeddings, complexity, 20, 4)
    for probes, similarity, row in zip(found.index, found.similarity, unit_rows(embeddings), strict=True):
        np.testing.assert_allclose(similarity, unit_rows(embeddings)[probes] @ row, atol=1e-6)
        assert sorted(similarity, reverse=True) == similarity.tolist()
    reverse = find_probes(embeddings, -complexity, num_neighbors=20, num_probes=4)
    assert (reverse.index != found.index).mean() > 0.5, "the control: complexity decides"


def test_one_cluster_and_as_many_as_neighbours() -> None:
    rng = np.random.default_rng(6)
    embeddings, complexity = rng.normal(size=(80, 8)), rng.normal(size=80)
    neighbors = nearest_neighbors(embeddings, 6).index
    one = find_probes(embeddings, complexity, num_neighbors=6, num_probes=1).index[:, 0]
    assert one.tolist() == [int(row[np.argmax(complexity[row])]) for row in neighbors]
    assert find_probes(embeddings, complexity, num_neighbors=6, num_probes=6).index.tolist() == neighbors.tolist()


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    embeddings, complexity = rng.normal(size=(150, 10)), rng.normal(size=150)
    order = rng.permutation(150)
    found, moved = find_probes(embeddings, complexity), find_probes(embeddings[order], complexity[order])
    assert order[moved.index].tolist() == found.index[order].tolist()
    assert moved.similarity.tolist() == found.similarity[order].tolist()


def test_fewer_rows_than_neighbours() -> None:
    found = find_probes(np.eye(3), [1.0, 2.0, 3.0])
    assert found.index.tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert find_probes(np.ones((1, 3)), [1.0]).index.tolist() == [[-1] * 5]
    assert find_probes(np.ones((4, 3)), [1.0, 2, 3, 4]).index[:, 0].tolist() == [3, 3, 3, 2], "copies are one cluster"
    assert find_probes(np.ones((0, 3)), []).index.shape == (0, 5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((32, 0), "num_probes must be a whole number of at least 1, got 0"),
        ((2.0, 5), "num_neighbors must be a whole number of at least 1, got 2.0"),
        ((4, 5), "num_probes must be at most num_neighbors, 4, got 5"),
    ],
)
def test_what_is_refused(sizes: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sizes(*sizes)


@pytest.mark.slow
def test_as_many_as_alpaca_in_well_under_a_minute() -> None:
    rng = np.random.default_rng(0)
    unit = unit_rows(rng.normal(size=(52_000, 384)))
    rows = rng.integers(0, 52_000, (52_000, 32))
    start = time.perf_counter()
    for first in range(0, 52_000, 256):
        kmeans(unit[rows[first : first + 256]].astype(np.float64), 5)
    assert time.perf_counter() - start < 60
