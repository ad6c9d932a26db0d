"""The rows that a trial selects."""

from __future__ import annotations

import numpy as np
from claims.plan import DRAW_SHARE, MAX_SIMILARITY, Trial

import instsel


def selected_rows(trial: Trial, score: np.ndarray, embedding: np.ndarray, num_tokens: np.ndarray) -> np.ndarray:
    """Rows int64 by `instsel.select`; the budget is a share of the pool's rows, or of its tokens."""
    budget: dict[str, object] = {"budget": max(1, round(trial.budget * len(score)))}
    if trial.equal == "tokens":
        budget = {"budget_tokens": round(trial.budget * int(num_tokens.sum())), "num_tokens": num_tokens}
    if trial.coverage == "none":
        return instsel.select(score, **budget)
    if trial.coverage == "cosine":
        return instsel.select(score, **budget, embeddings=embedding, max_similarity=MAX_SIMILARITY)
    drawn = trial.coverage == "drawn"
    return instsel.select(
        score,
        **budget,
        embeddings=embedding,
        coverage="proportional" if drawn else trial.coverage,
        draw_share=DRAW_SHARE if drawn else None,
        num_clusters=trial.clusters,
        seed=trial.pool.seed,
    )
