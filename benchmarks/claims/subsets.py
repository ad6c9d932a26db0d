"""The rows that a trial selects."""

from __future__ import annotations

import numpy as np
from claims.plan import DRAW_SHARE, MAX_SIMILARITY, Trial

import instsel


def selected_rows(trial: Trial, score: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """Rows int64 by `instsel.select`; the budget is a share of the pool's rows."""
    budget = max(1, round(trial.budget * len(score)))
    if trial.coverage == "none":
        return instsel.select(score, budget)
    if trial.coverage == "cosine":
        return instsel.select(score, budget, embeddings=embedding, max_similarity=MAX_SIMILARITY)
    return instsel.select(
        score,
        budget,
        embeddings=embedding,
        coverage="proportional",
        draw_share=DRAW_SHARE if trial.coverage == "drawn" else None,
        num_clusters=trial.clusters,
        seed=trial.pool.seed,
    )
