"""The cosine rule: rows in order, but for those too similar to one before them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from instsel.neighbors.embeddings import cosine

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024  # candidates compared with the accepted rows at a time,
BLOCK_PAIRS = 1 << 25  # or fewer, so that their similarities stay within 128 MiB
ROUNDING = 1e-12  # of a cosine in float64: a copy's cosine counts as 1, not as just below


def different_rows(unit: np.ndarray, order: np.ndarray, limit: float) -> Iterator[int]:
    """Yield the rows of `order` whose cosine to every row yielded before is below `limit`, as they are asked for.

    `unit` is float32 `[n, d]` as from `unit_rows`.
    """
    import torch

    accepted = np.empty(min(BLOCK, len(order)), np.int64)
    vectors = torch.empty((len(accepted), unit.shape[1]))  # of the accepted rows, in their order
    total = start = 0
    while start < len(order):
        rows = order[start : start + max(1, min(BLOCK, BLOCK_PAIRS // max(total, 1)))]
        start += len(rows)
        block = torch.from_numpy(unit[rows])
        clear = ~_too_similar(unit, rows, accepted[:total], block @ vectors[:total].T, limit).any(1)
        rows, block = rows[clear], block[torch.from_numpy(clear)]
        if total + len(rows) > len(accepted):
            room = min(max(2 * len(accepted), total + len(rows)), len(order))
            accepted = np.concatenate([accepted[:total], np.empty(room - total, np.int64)])
            vectors = torch.cat([vectors[:total], torch.empty((room - total, unit.shape[1]))])
        similar = _too_similar(unit, rows, rows, block @ block.T, limit)
        open_rows = np.ones(len(rows), bool)
        for place in range(len(rows)):
            if open_rows[place]:
                accepted[total], vectors[total] = rows[place], block[place]
                total += 1
                yield int(rows[place])
                open_rows &= ~similar[place]


def _too_similar(
    unit: np.ndarray,
    rows: np.ndarray,
    others: np.ndarray,
    product: Tensor,
    limit: float,
) -> np.ndarray:
    """Whether cosine >= limit, bool `[rows, others]`: in float64 where float32 `product` is too near to tell."""
    error = (unit.shape[1] + 2) * 2.0**-24
    similar = (product >= limit).numpy()
    near_row, near_other = ((product - limit).abs() <= error).numpy().nonzero()
    exact = cosine(unit, rows[near_row], others[near_other])
    similar[near_row, near_other] = exact >= limit - ROUNDING
    return similar
