"""Facility location against greedy over all pairs in float64, and against the best set there is."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.neighbors.nearest import nearest_neighbors
from instsel.selection import select


def worth(embeddings: np.ndarray, score: np.ndarray, neighbors: int | None = None) -> np.ndarray:
    """What row j is worth to row i, [j, i]: in float64, every pair or those among the nearest."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.where(length > 0, length, 1)
    similarity = np.maximum(unit @ unit.T, 0)
    if neighbors is not None:
        near = np.zeros(similarity.shape, bool)
        index = nearest_neighbors(embeddings, neighbors).index
        row, place = np.nonzero(index >= 0)
        near[row, index[row, place]] = True
        similarity[~(near | near.T)] = 0
    np.fill_diagonal(similarity, 1)
    weight = (score[None] <= score[:, None]).mean(1)
    return weight[:, None] * similarity


def greedy(value: np.ndarray, score: np.ndarray, cost: np.ndarray, limit: int) -> list[int]:
    chosen: list[int] = []
    covered = np.zeros(len(value))
    while fits := [row for row in range(len(value)) if row not in chosen and cost[row] <= limit]:
        gain = np.maximum(value - covered, 0).sum(1)
        # Gains that are equal but for rounding are ties.
        best = max(fits, key=lambda row: (round(gain[row], 7), score[row], -row))
        chosen.append(best)
        limit -= int(cost[best])
        covered = np.maximum(covered, value[best])
    return chosen


def drawn(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    embeddings, score = rng.normal(size=(70, 4)), rng.normal(size=70)
    if kind == "copies":
        embeddings = embeddings[rng.integers(0, 20, 70)]
    if kind == "ties":
        embeddings, score = np.eye(4)[rng.integers(0, 4, 70)], rng.integers(0, 3, 70).astype(float)
    if kind == "flat":
        score = np.full(70, 3.0)
    if kind == "zeros":
        embeddings[::5] = 0
    return embeddings, score


# Which copies are among the three nearest is a matter of their order.
@pytest.mark.parametrize(
    ("kind", "neighbors"),
    [*((kind, 69) for kind in ("spread", "copies", "ties", "flat", "zeros")), ("spread", 3), ("flat", 3), ("zeros", 3)],
)
def test_lazy_greedy_is_greedy(kind: str, neighbors: int) -> None:
    for seed in range(4):
        embeddings, score = drawn(kind, np.random.default_rng(seed))
        value = worth(embeddings, score, neighbors if neighbors < 69 else None)
        options: dict[str, Any] = {"embeddings": embeddings, "coverage": "facility-location"}
        got = select(score, 70, num_neighbors=neighbors, **options)
        assert got.tolist() == greedy(value, score, np.ones(70), 70)
        assert select(score, 9, num_neighbors=neighbors, **options).tolist() == got[:9].tolist()
        cost = np.random.default_rng(seed).integers(1, 50, 70)
        got = select(score, budget_tokens=600, num_tokens=cost, num_neighbors=neighbors, **options)
        assert got.tolist() == greedy(value, score, cost, 600) and cost[got].sum() <= 600


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_no_worse_than_its_bound(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings, score = rng.normal(size=(9, 2)), rng.integers(0, 5, 9).astype(float)
    value = worth(embeddings, score)
    best = max(value[list(chosen)].max(0).sum() for chosen in combinations(range(9), rows))
    got = select(score, rows, embeddings=embeddings, coverage="facility-location")
    assert value[got].max(0).sum() >= (1 - 1 / np.e) * best - 1e-9


def test_rows_taken_in_their_order_alone_break_that_bound() -> None:
    """Forty-two copies come before forty rows that stand alone, all with one score."""
    embeddings = np.concatenate([np.tile([1.0] + [0.0] * 40, (42, 1)), np.eye(41)[1:]])
    score = np.ones(82)
    value = worth(embeddings, score)
    covering = select(score, 41, embeddings=embeddings, coverage="facility-location")
    assert value[covering].max(0).sum() == 82
    assert value[select(score, 41)].max(0).sum() == 42 < (1 - 1 / np.e) * 82


def test_only_the_order_of_scores_matters_and_that_of_rows_does_not() -> None:
    rng = np.random.default_rng(3)
    embeddings, score = rng.normal(size=(400, 6)), rng.normal(size=400)
    options: dict[str, Any] = {"coverage": "facility-location"}
    got = select(score, 60, embeddings=embeddings, **options)
    assert select(np.exp(3 * score), 60, embeddings=embeddings, **options).tolist() == got.tolist()
    assert select(-score, 60, embeddings=embeddings, **options).tolist() != got.tolist()
    order = rng.permutation(400)
    assert order[select(score[order], 60, embeddings=embeddings[order], **options)].tolist() == got.tolist()


def test_rows_that_may_not_be_selected_need_no_one_near() -> None:
    rng = np.random.default_rng(4)
    embeddings, score = rng.normal(size=(100, 5)), rng.normal(size=100)
    selectable = rng.random(100) < 0.5
    score[3] = np.nan
    usable = np.flatnonzero(selectable & np.isfinite(score))
    got = select(score, 20, embeddings=embeddings, coverage="facility-location", selectable=selectable)
    alone = select(score[usable], 20, embeddings=embeddings[usable], coverage="facility-location")
    assert got.tolist() == usable[alone].tolist()
    assert select([np.nan] * 3, 2, embeddings=np.eye(3), coverage="facility-location").tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "coverage 'facility-location' needs embeddings"),
        ({"embeddings": np.eye(3), "num_neighbors": 0}, "num_neighbors must be a whole number of at least 1, got 0"),
        ({"embeddings": np.eye(3), "max_similarity": 0.9}, "max_similarity is not for coverage 'facility-location'"),
        ({"embeddings": np.eye(3), "clusters": [1, 2, 3]}, "clusters needs coverage 'proportional' or 'equal'"),
        ({"embeddings": np.eye(2)}, "embeddings must have 3 rows, one for each score, got 2"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([1.0, 2.0, 3.0], 2, coverage="facility-location", **options)
