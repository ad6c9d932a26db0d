"""`select`: rows by score within a budget, with what keeps them apart or spreads them over the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.neighbors.clusters import check_seed, cluster_rows
from instsel.neighbors.embeddings import unit_rows
from instsel.selection.budget import row_budget, token_budget
from instsel.selection.diversity import different_rows
from instsel.selection.facility_location import by_facility_location
from instsel.selection.labels import number_labels
from instsel.selection.length_strata import checked_strata, rank_within_strata
from instsel.selection.quotas import by_quotas, drawn_from_best

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

COVERAGES = ("proportional", "equal", "facility-location")
MAX_SIMILARITY = 0.9  # of the papers


def select(
    score: ArrayLike,
    budget: int | float | None = None,
    *,
    embeddings: ArrayLike | None = None,
    max_similarity: float | None = None,
    selectable: ArrayLike | None = None,
    coverage: str | None = None,
    clusters: ArrayLike | None = None,
    num_clusters: int = 24,
    num_neighbors: int = 32,
    seed: int = 0,
    budget_tokens: int | None = None,
    num_tokens: ArrayLike | None = None,
    max_score: float | None = None,
    draw_share: float | None = None,
    length_strata: int | None = None,
) -> np.ndarray:
    """Select rows by score, highest first, that differ from each other or cover the pool.

    Rows whose score is NaN, infinite or above `max_score`, or whose `selectable` is False, are left out. (IFD is
    selected with `max_score=1.0`: above 1 a prompt does not help its answer.) Of the others, ties by row:

    - `coverage=None`: rows in the order of their score; with `embeddings` a row is left out whose cosine to one taken
      or skipped before it is `max_similarity` (default 0.9) or more.
    - `"proportional"`, `"equal"`: the budget is divided over clusters, in proportion to their rows that may be
      selected or in equal parts, by largest remainder; of each cluster the rows with the highest score. What a
      cluster cannot use goes to the others by the same rule. Equal remainders go to the cluster whose next row has
      the highest score: with more clusters than rows to select, those with the best rows give one each. `clusters`
      are labels `[n]`, whole numbers or texts; without it, k-means over `embeddings` with `num_clusters` and `seed`.
      With `max_similarity` (default: no limit), the cosine rule holds within each cluster. With `draw_share`, a
      cluster's rows are drawn at random, by `seed`, from the share of them with the highest scores, and not taken from
      the top: a score leaves out what is bad, and chance keeps what is left as varied as it was.
    - `"facility-location"`: lazy greedy on `sum_i max_{j selected} w_j s(i, j)`, where `w_j` is the share of scores
      that are not above row j's, and `s` the positive part of the cosine between a row and its `num_neighbors`
      nearest.

    With `length_strata` a row's score is exchanged for its rank among the rows of like length, in that many parts of
    the pool by `num_tokens` (see `rank_within_strata`): for a score that follows the length of the answer.

    `score` is numbers `[n]`. `budget` is a count (int, 1 to n) or a fraction of all n rows (float, above 0 to 1;
    rounded down, at least one row). Instead, `budget_tokens` is a number of tokens, by the lengths `num_tokens`, whole
    numbers `[n]`: a row that does not fit into what is left is skipped, quotas count tokens too, and what they cannot
    use goes to the best rows that fit. `embeddings` is numbers `[n, d]`; `selectable` is bool `[n]`.

    Returns row indices, int64: best score first, with facility location and `draw_share` in the order chosen.

    Raises ValueError or TypeError naming the parameter where a budget is 0, negative, above n or above 100 %, below
    the shortest row, missing or given twice; where shapes do not agree, a row has no label or no length, embeddings
    are missing or not finite, `num_clusters` is below 1 or above n, `max_similarity` is not in (-1, 1], or
    `draw_share` not in (0, 1] or given without quotas, or `length_strata` is below 2 or given without
    `num_tokens`, or `seed` is no whole number of at least 0.

    Source: arXiv 2604.25132 (the cosine rule); arXiv 2402.00530 and 2504.13835 (see `by_facility_location`).

    >>> select([0.1, 0.9, 0.8, float("nan")], 2, embeddings=[[1, 0], [0, 1], [0.1, 1], [1, 1]])
    array([1, 0])
    >>> select([0.1, 0.9, 0.8, 0.7], 2, coverage="equal", clusters=["b", "a", "a", "a"])
    array([1, 0])
    >>> select([0.1, 0.9, 0.8, 0.7], budget_tokens=100, num_tokens=[30, 60, 50, 40])
    array([1, 3])
    """
    score = np.asarray(score, np.float64)
    if score.ndim != 1:
        raise ValueError(f"score must be numbers [n], got shape {list(score.shape)}")
    usable = _usable(score, selectable, max_score)
    if length_strata is not None:
        length = checked_strata(length_strata, num_tokens, usable)
        score = rank_within_strata(score, length, usable, int(length_strata))
    if (budget is None) == (budget_tokens is None):
        raise ValueError(
            "give one of budget (rows) and budget_tokens, got " + ("neither" if budget is None else "both")
        )
    limits = row_budget(budget, len(score)) if budget is not None else token_budget(budget_tokens, num_tokens, usable)
    if coverage is not None and coverage not in COVERAGES:
        raise ValueError(f"coverage must be None or one of {', '.join(COVERAGES)}, got {coverage!r}")
    by_cluster = coverage in ("proportional", "equal")
    if clusters is not None and not by_cluster:
        raise ValueError(f"clusters needs coverage 'proportional' or 'equal', got {coverage!r}")
    check_seed(seed)
    if max_similarity is not None:
        _check_similarity(max_similarity, embeddings, coverage)
    if draw_share is not None:
        _check_share(draw_share, by_cluster, coverage)
    labels = number_labels(clusters, len(score)) if clusters is not None else None
    if embeddings is None and coverage is not None and labels is None:
        raise ValueError(f"coverage {coverage!r} needs embeddings" + (" or clusters" if by_cluster else ""))
    unit = None if embeddings is None else unit_rows(embeddings)
    if unit is not None and len(unit) != len(score):
        raise ValueError(f"embeddings must have {len(score)} rows, one for each score, got {len(unit)}")
    order = np.argsort(-score, kind="stable")
    order = order[usable[order]]
    if by_cluster:
        if labels is None:
            labels = number_labels(_clustered(unit, num_clusters, seed), len(score))
        if draw_share is not None:
            order = drawn_from_best(order, labels, float(draw_share), seed)
        thinned = unit if max_similarity is not None else None
        return by_quotas(
            order, score, labels, limits, equal=coverage == "equal", unit=thinned, limit=float(max_similarity or 0.0)
        )
    if unit is not None and coverage is not None:
        return by_facility_location(unit, order, score, limits, num_neighbors)
    limit = MAX_SIMILARITY if max_similarity is None else float(max_similarity)
    rows = order.tolist() if unit is None else different_rows(unit, order, limit)
    return limits.fill(rows, int(limits.cost[order].min(initial=limits.limit)))


def _usable(score: np.ndarray, selectable: ArrayLike | None, max_score: float | None) -> np.ndarray:
    usable = np.isfinite(score)
    if selectable is not None:
        selectable = np.asarray(selectable)
        if selectable.dtype != bool or selectable.shape != score.shape:
            raise ValueError(
                f"selectable must be bool [{len(score)}], got {selectable.dtype} of shape {list(selectable.shape)}"
            )
        usable &= selectable
    if max_score is not None:
        if isinstance(max_score, bool) or not isinstance(max_score, int | float) or max_score != max_score:
            raise ValueError(f"max_score must be a number, got {max_score!r}")
        usable &= score <= max_score
    return usable


def _check_similarity(max_similarity: float, embeddings: object, coverage: str | None) -> None:
    if not isinstance(max_similarity, int | float) or not -1 < max_similarity <= 1:
        raise ValueError(f"max_similarity must be a cosine above -1 and at most 1, got {max_similarity!r}")
    if coverage == "facility-location":
        raise ValueError("max_similarity is not for coverage 'facility-location', which keeps rows apart by itself")
    if embeddings is None and coverage is not None:
        raise ValueError("max_similarity needs embeddings")


def _check_share(draw_share: float, by_cluster: bool, coverage: str | None) -> None:
    if isinstance(draw_share, bool) or not isinstance(draw_share, int | float) or not 0 < draw_share <= 1:
        raise ValueError(f"draw_share must be a share above 0 and at most 1, got {draw_share!r}")
    if not by_cluster:
        raise ValueError(f"draw_share needs coverage 'proportional' or 'equal', got {coverage!r}")


def _clustered(unit: Any, num_clusters: int, seed: int) -> np.ndarray:
    if isinstance(num_clusters, int | np.integer) and num_clusters > len(unit):
        raise ValueError(f"num_clusters must be at most the {len(unit)} rows there are, got {num_clusters}")
    return cluster_rows(unit, num_clusters, seed=seed).labels
