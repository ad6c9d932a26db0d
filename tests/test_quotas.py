"""Quotas against exact fractions, and selections by them against what their definition says, row by row."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.neighbors.clusters import cluster_rows
from instsel.selection import diversity, select
from instsel.selection.quotas import share_budget


def by_fractions(limit: int, weight: list[int], capacity: list[int], best: list[float]) -> list[int]:
    quota, unfilled = [0] * len(weight), [c for c in range(len(weight)) if capacity[c]]
    left = min(limit, sum(capacity))
    while unfilled:
        exact = {c: Fraction(left * weight[c], sum(weight[d] for d in unfilled)) for c in unfilled}
        share = {c: int(exact[c]) for c in unfilled}
        for c in sorted(unfilled, key=lambda c: (share[c] - exact[c], -best[c], c))[: left - sum(share.values())]:
            share[c] += 1
        over = [c for c in unfilled if share[c] > capacity[c]]
        for c in over or unfilled:
            quota[c] = min(share[c], capacity[c])
        if not over:
            break
        left -= sum(capacity[c] for c in over)
        unfilled = [c for c in unfilled if c not in over]
    return quota


clusters_drawn = st.lists(
    st.tuples(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 3)), min_size=1, max_size=12
)


@given(clusters_drawn, st.integers(1, 10**13))
def test_quotas_as_by_fractions(drawn: list[tuple[int, int, int]], limit: int) -> None:
    weight, capacity, best = (list(part) for part in zip(*drawn, strict=True))
    got = share_budget(limit, np.array(weight), np.array(capacity), lambda quota: np.array(best, float))
    assert got.tolist() == by_fractions(limit, weight, capacity, [float(b) for b in best])
    assert got.sum() == min(limit, sum(capacity)) and (got <= capacity).all()


def by_definition(
    score: np.ndarray, labels: np.ndarray, limit: int, cost: np.ndarray, equal: bool, thinned: Any = None
) -> list[int]:
    order = sorted(np.flatnonzero(np.isfinite(score)).tolist(), key=lambda row: (-score[row], row))
    names = sorted(set(labels.tolist()))
    lists = {name: [row for row in order if labels[row] == name] for name in names}
    weight = [1 if equal else sum(int(cost[row]) for row in lists[name]) for name in names]
    if thinned is not None:
        lists = {name: thinned(rows) for name, rows in lists.items()}
    capacity = [sum(int(cost[row]) for row in lists[name]) for name in names]
    # Scores are all different here and the reference needs the next row's score only for equal remainders.
    quota, unfilled, left = dict.fromkeys(names, 0), [n for n, c in zip(names, capacity, strict=True) if c], limit
    left = min(left, sum(capacity))
    size, room = dict(zip(names, weight, strict=True)), dict(zip(names, capacity, strict=True))
    while unfilled:
        total = sum(size[n] for n in unfilled)
        share = {n: left * size[n] // total for n in unfilled}

        def key(n: Any, share: dict[Any, int] = share, total: int = total, left: int = left) -> Any:
            spent, following = 0, -np.inf
            for row in lists[n]:
                spent += int(cost[row])
                if spent > share[n]:
                    following = score[row]
                    break
            return (-(left * size[n] % total), -following, n)

        for n in sorted(unfilled, key=key)[: left - sum(share.values())]:
            share[n] += 1
        over = [n for n in unfilled if share[n] > room[n]]
        for n in over or unfilled:
            quota[n] = min(share[n], room[n])
        if not over:
            break
        left -= sum(room[n] for n in over)
        unfilled = [n for n in unfilled if n not in over]
    chosen = []
    for n in names:
        for row in lists[n]:
            if cost[row] <= quota[n]:
                chosen.append(row)
                quota[n] -= int(cost[row])
    rest = limit - sum(int(cost[row]) for row in chosen)
    for row in order:
        if row in lists[labels[row]] and row not in chosen and cost[row] <= rest:
            chosen.append(row)
            rest -= int(cost[row])
    return sorted(chosen, key=order.index)


@pytest.mark.parametrize("coverage", ["proportional", "equal"])
@pytest.mark.parametrize("rows", [1, 7, 40, 100])
def test_rows_as_by_definition(coverage: str, rows: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = rng.choice(rng.integers(1, 30), 100) ** 2
        score = rng.permutation(100).astype(float)
        score[rng.random(100) < 0.1] = np.nan
        got = select(score, rows, coverage=coverage, clusters=labels)
        assert got.tolist() == by_definition(score, labels, rows, np.ones(100, int), coverage == "equal")
        assert len(got) == min(rows, np.isfinite(score).sum())


@pytest.mark.parametrize("coverage", ["proportional", "equal"])
def test_tokens_as_by_definition(coverage: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        labels, score = rng.integers(0, 6, 80), rng.permutation(80).astype(float)
        cost = rng.integers(1, 60, 80)
        limit = int(rng.integers(cost.min(), 2500))
        got = select(score, budget_tokens=limit, num_tokens=cost, coverage=coverage, clusters=labels)
        assert got.tolist() == by_definition(score, labels, limit, cost, coverage == "equal")
        left = limit - cost[got].sum()
        assert left >= 0 and (np.delete(cost, got) > left).all()


def test_the_cosine_rule_within_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "BLOCK", 5)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(30, 3))[rng.integers(0, 30, 200)] + 0.05 * rng.normal(size=(200, 3))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels, score = rng.choice(4, 200, p=[0.85, 0.05, 0.05, 0.05]), rng.permutation(200).astype(float)

    def thinned(rows: list[int]) -> list[int]:
        kept: list[int] = []
        for row in rows:
            if all(unit[row] @ unit[other] < 0.9 for other in kept):
                kept.append(row)
        return kept

    for rows in (10, 60, 150):
        options: dict[str, Any] = {"coverage": "proportional", "clusters": labels, "embeddings": embeddings}
        got = select(score, rows, max_similarity=0.9, **options)
        want = by_definition(score, labels, rows, np.ones(200, int), False, thinned)
        assert got.tolist() == want
        without = by_definition(score, labels, rows, np.ones(200, int), False)
        assert select(score, rows, **options).tolist() == without != want


def test_clusters_of_its_own_are_those_of_k_means() -> None:
    rng = np.random.default_rng(1)
    embeddings, score = rng.normal(size=(300, 5)), rng.permutation(300).astype(float)
    labels = cluster_rows(embeddings, 8, seed=2).labels
    mine = select(score, 50, coverage="proportional", clusters=labels)
    options: dict[str, Any] = {"embeddings": embeddings, "coverage": "proportional", "num_clusters": 8}
    assert select(score, 50, seed=2, **options).tolist() == mine.tolist()
    assert select(score, 50, seed=3, **options).tolist() != mine.tolist()
    order = rng.permutation(300)
    again = select(score[order], 50, seed=2, **{**options, "embeddings": embeddings[order]})
    assert order[again].tolist() == mine.tolist()


def test_a_cluster_counts_by_its_selectable_rows_and_gives_what_it_cannot_use() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    score, selectable = -np.arange(100.0), np.ones(100, bool)
    got = select(score, 10, coverage="proportional", clusters=labels)
    assert got.tolist() == [0, 1, 2, 3, 4, 5, 60, 61, 62, 90]
    got = select(score, 45, coverage="equal", clusters=labels)
    assert np.bincount(np.searchsorted([60, 90], got, side="right")).tolist() == [18, 17, 10]
    selectable[2:60] = False
    got = select(score, 21, coverage="proportional", clusters=labels, selectable=selectable)
    assert [int((got < 60).sum()), int(((got >= 60) & (got < 90)).sum()), int((got >= 90).sum())] == [1, 15, 5]
    assert selectable[got].all()


def test_more_clusters_than_rows_to_select_is_by_the_best_rows() -> None:
    score = np.random.default_rng(0).permutation(1000).astype(float)
    for coverage in ("proportional", "equal"):
        got = select(score, 30, coverage=coverage, clusters=np.arange(1000))
        assert got.tolist() == select(score, 30).tolist(), "a cluster a row is no clusters"


def test_ties_go_to_the_lower_row_and_labels_may_be_texts() -> None:
    labels = ["y", "x", "y", "x", "y", "x"]
    assert select([1.0] * 6, 2, coverage="equal", clusters=labels).tolist() == [0, 1]
    assert select([1.0] * 6, 3, coverage="equal", clusters=labels).tolist() == [0, 1, 3]
    assert select([1.0] * 6, 3, coverage="equal", clusters=np.array(labels)).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"coverage": "some"}, ValueError, "coverage must be None or one of proportional, equal, facility-location"),
        ({"coverage": "equal"}, ValueError, "coverage 'equal' needs embeddings or clusters"),
        ({"clusters": [1, 2, 3]}, ValueError, "clusters needs coverage 'proportional' or 'equal', got None"),
        ({"coverage": "equal", "clusters": [1, 2]}, ValueError, r"clusters must be labels \[3\].* got shape \[2\]"),
        ({"coverage": "equal", "clusters": ["a", None, None]}, ValueError, "but 2 have none, row 1 first"),
        ({"coverage": "equal", "clusters": ["a", float("nan"), "b"]}, ValueError, "but 1 have none, row 1 first"),
        ({"coverage": "equal", "clusters": np.array([0.0, 1.0, np.nan])}, ValueError, "1 have none, row 2 first"),
        ({"coverage": "equal", "clusters": ["a", 1, "b"]}, TypeError, "whole numbers or all texts, got int, str"),
        ({"coverage": "equal", "embeddings": np.eye(3)}, ValueError, "num_clusters must be at most the 3 rows.* 24"),
        ({"coverage": "equal", "embeddings": np.eye(3), "num_clusters": 0}, ValueError, "at least 1, got 0"),
        ({"coverage": "equal", "clusters": [1, 2, 3], "max_similarity": 0.9}, ValueError, "needs embeddings"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select([1.0, 2.0, 3.0], 2, **options)
