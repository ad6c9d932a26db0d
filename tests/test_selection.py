"""Selection against the greedy loop in float64."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from instsel.selection import diversity, select


def by_loop(score: np.ndarray, count: int, embeddings: np.ndarray, limit: float) -> list[int]:
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    accepted: list[int] = []
    for row in sorted(np.flatnonzero(np.isfinite(score)).tolist(), key=lambda i: (-score[i], i)):
        if len(accepted) < count and all(rows[row] @ rows[other] < limit - 1e-9 for other in accepted):
            accepted.append(row)
    return accepted


@pytest.mark.parametrize("limit", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("block", [7, 1024])
def test_as_the_greedy_loop(limit: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", block)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 6))[rng.integers(0, 60, 400)] + 0.1 * rng.normal(size=(400, 6))
    embeddings[50:60] = embeddings[60:70]
    score = rng.integers(0, 50, 400).astype(float)
    score[rng.random(400) < 0.1] = np.nan
    for count in (1, 5, 40, 400):
        chosen = select(score, count, embeddings=embeddings, max_similarity=limit)
        assert chosen.tolist() == by_loop(score, count, embeddings, limit)
    assert len(select(score, 400, embeddings=embeddings, max_similarity=limit)) < np.isfinite(score).sum()


def test_no_two_are_alike_and_none_left_out_for_nothing() -> None:
    rng = np.random.default_rng(1)
    embeddings, score = rng.normal(size=(3000, 5)), rng.normal(size=3000)
    chosen = select(score, 1.0, embeddings=embeddings)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    alike = unit @ unit[chosen].T
    assert np.triu(alike[chosen], 1).max() < 0.9
    place = {int(row): i for i, row in enumerate(chosen)}
    for row in set(range(3000)) - set(place):
        blockers = chosen[alike[row] >= 0.9 - 1e-9]
        assert score[blockers].max() >= score[row]
    assert (np.diff(score[chosen]) <= 0).all()


def test_a_cosine_at_the_limit() -> None:
    """3/5 exactly, computed in floating point, is at the limit and not below it; just above it is free."""
    embeddings = [[1.0, 0.0], [0.6, 0.8]]
    assert select([2.0, 1.0], 2, embeddings=embeddings, max_similarity=0.61).tolist() == [0, 1]
    assert select([2.0, 1.0], 2, embeddings=embeddings, max_similarity=0.59).tolist() == [0]
    copies = np.repeat(np.random.default_rng(0).normal(size=(50, 31)), 2, axis=0)
    assert select(-np.arange(100.0), 100, embeddings=copies, max_similarity=1.0).tolist() == list(range(0, 100, 2))


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    embeddings, score, order = rng.normal(size=(500, 4)), rng.permutation(500).astype(float), rng.permutation(500)
    chosen = select(score, 30, embeddings=embeddings)
    assert order[select(score[order], 30, embeddings=embeddings[order])].tolist() == chosen.tolist()


def test_ties_go_to_the_lower_row_and_what_has_no_score_is_left_out() -> None:
    score = [1.0, np.nan, 2.0, 2.0, np.inf, -np.inf, 0.0]
    assert select(score, 7).tolist() == [2, 3, 0, 6]
    assert select(score, 2, selectable=[True, True, False, True, True, True, True]).tolist() == [3, 0]
    assert select([np.nan], 1).tolist() == []


@pytest.mark.parametrize(
    ("budget", "size", "count"), [(1, 10, 1), (10, 10, 10), (0.29, 100, 29), (0.001, 10, 1), (1.0, 7, 7), (0.5, 7, 3)]
)
def test_budgets(budget: float, size: int, count: int) -> None:
    assert select(np.arange(float(size)), budget).tolist() == list(range(size - 1, size - 1 - count, -1))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "budget must be at least 1 row, got 0"),
        (-3, "budget must be at least 1 row, got -3"),
        (5, "budget must be at most the 4 rows there are, got 5"),
        (0.0, r"budget as a fraction must be above 0 and at most 1.0 \(100 %\), got 0.0"),
        (1.1, r"at most 1.0 \(100 %\), got 1.1"),
        (-0.5, "got -0.5"),
        (float("nan"), "got nan"),
    ],
)
def test_budgets_that_are_none(budget: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select([1.0, 2.0, 3.0, 4.0], budget)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": "5"}, TypeError, r"budget must be a count \(int\) or a fraction \(float\), got str"),
        ({"budget": True}, TypeError, "got bool"),
        ({"score": [[1.0]]}, ValueError, r"score must be numbers \[n\], got shape \[1, 1\]"),
        ({"selectable": [1, 0, 1]}, ValueError, r"selectable must be bool \[3\], got int64"),
        ({"embeddings": np.eye(2)}, ValueError, "embeddings must have 3 rows, one for each score, got 2"),
        ({"embeddings": np.full((3, 2), np.nan)}, ValueError, "embeddings must be finite, but row 0"),
        ({"embeddings": np.eye(3), "max_similarity": 1.5}, ValueError, "max_similarity must be a cosine .* got 1.5"),
        ({"embeddings": np.eye(3), "max_similarity": -1.0}, ValueError, "max_similarity must be a cosine"),
        ({"embeddings": np.eye(3), "max_similarity": float("nan")}, ValueError, "max_similarity must be a cosine"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, got -1"),
        ({"seed": None}, ValueError, "seed must be a whole number of at least 0, got None"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select(**{"score": [1.0, 2.0, 3.0], "budget": 1, **options})


@pytest.mark.slow
def test_two_hundred_thousand_rows_in_well_under_a_minute() -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(4000, 384))[rng.integers(0, 4000, 200_000)] + 0.7 * rng.normal(size=(200_000, 384))
    start = time.perf_counter()
    assert len(select(rng.random(200_000), 0.15, embeddings=embeddings)) == 30_000
    assert time.perf_counter() - start < 60
