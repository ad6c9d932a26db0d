"""Selection: the best-scoring rows within a budget, none too similar to another."""

from __future__ import annotations

from typing import Any

import numpy as np

from instsel.neighbors.embeddings import cosine, unit_rows

BLOCK = 1024  # candidates compared with the accepted rows at a time,
BLOCK_PAIRS = 1 << 25  # or fewer, so that their similarities stay within 128 MiB
ROUNDING = 1e-12  # of a cosine in float64: a copy's cosine counts as 1, not as just below


def select(
    score: Any,
    budget: int | float,
    *,
    embeddings: Any = None,
    max_similarity: float = 0.9,
    selectable: Any = None,
) -> np.ndarray:
    """Select rows by score, highest first, each of which differs from all selected before it.

    Rows are taken in the order of their score (ties by row); a row is accepted if its cosine to every accepted row is
    below `max_similarity`; the selection ends when it has `budget` rows, or fewer where no more qualify. Rows whose
    score is NaN or infinite, or whose `selectable` is False, are left out.

    `score` is numbers `[n]`. `budget` is a count (int, 1 to n) or a fraction of all n rows (float, above 0 to 1;
    rounded down, at least one row). `embeddings` is numbers `[n, d]`; without it no row is too similar. `selectable`
    is bool `[n]`.

    Returns row indices, int64, best first.

    Raises ValueError or TypeError naming the parameter where a budget is 0, negative, above n or above 100 %, where
    shapes do not agree, where embeddings are not finite, or where `max_similarity` is not in (-1, 1].

    Source: arXiv 2604.25132.

    >>> select([0.1, 0.9, 0.8, float("nan")], 2, embeddings=[[1, 0], [0, 1], [0.1, 1], [1, 1]])
    array([1, 0])
    """
    score = np.asarray(score, np.float64)
    if score.ndim != 1:
        raise ValueError(f"score must be numbers [n], got shape {list(score.shape)}")
    count = _count(budget, len(score))
    usable = np.isfinite(score)
    if selectable is not None:
        selectable = np.asarray(selectable)
        if selectable.dtype != bool or selectable.shape != score.shape:
            raise ValueError(
                f"selectable must be bool [{len(score)}], got {selectable.dtype} of shape {list(selectable.shape)}"
            )
        usable &= selectable
    order = np.argsort(-score, kind="stable")
    order = order[usable[order]]
    if embeddings is None:
        return order[:count]
    if not isinstance(max_similarity, int | float) or not -1 < max_similarity <= 1:
        raise ValueError(f"max_similarity must be a cosine above -1 and at most 1, got {max_similarity!r}")
    unit = unit_rows(embeddings)
    if len(unit) != len(score):
        raise ValueError(f"embeddings must have {len(score)} rows, one for each score, got {len(unit)}")
    return _diverse(unit, order, count, float(max_similarity))


def _count(budget: int | float, size: int) -> int:
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.integer | np.floating):
        raise TypeError(f"budget must be a count (int) or a fraction (float), got {type(budget).__name__}")
    if isinstance(budget, int | np.integer):
        if budget < 1:
            raise ValueError(f"budget must be at least 1 row, got {budget}")
        if budget > size:
            raise ValueError(f"budget must be at most the {size} rows there are, got {budget}")
        return int(budget)
    if not 0 < budget <= 1:
        raise ValueError(f"budget as a fraction must be above 0 and at most 1.0 (100 %), got {budget}")
    return max(1, int(budget * size * (1 + 1e-12)))  # 0.29 of 100 is 29, though 0.29 * 100 < 29 in binary


def _diverse(unit: np.ndarray, order: np.ndarray, count: int, limit: float) -> np.ndarray:
    import torch

    accepted = np.empty(min(count, len(order)), np.int64)
    vectors = torch.empty((len(accepted), unit.shape[1]))  # of the accepted rows, in their order
    total = start = 0
    while start < len(order) and total < len(accepted):
        rows = order[start : start + max(1, min(BLOCK, BLOCK_PAIRS // max(total, 1)))]
        start += len(rows)
        block = torch.from_numpy(unit[rows])
        clear = ~_too_similar(unit, rows, accepted[:total], block @ vectors[:total].T, limit).any(1)
        rows, block = rows[clear], block[torch.from_numpy(clear)]
        similar = _too_similar(unit, rows, rows, block @ block.T, limit)
        open_rows = np.ones(len(rows), bool)
        for place in range(len(rows)):
            if open_rows[place]:
                accepted[total], vectors[total] = rows[place], block[place]
                total += 1
                if total == len(accepted):
                    break
                open_rows &= ~similar[place]
    return accepted[:total]


def _too_similar(unit: np.ndarray, rows: np.ndarray, others: np.ndarray, product: Any, limit: float) -> np.ndarray:
    """Whether cosine >= limit, bool `[rows, others]`: in float64 where float32 `product` is too near to tell."""
    error = (unit.shape[1] + 2) * 2.0**-24
    similar = (product >= limit).numpy()
    near_row, near_other = ((product - limit).abs() <= error).numpy().nonzero()
    exact = cosine(unit, rows[near_row], others[near_other])
    similar[near_row, near_other] = exact >= limit - ROUNDING
    return similar
