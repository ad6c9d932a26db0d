"""The scores of a pool by every method, computed once and kept in a file; higher is what the name says comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from claims.pools import Pool

import instsel
from instsel.methods.influence import score_by_rule

NUM_ANCHORS = 20  # for k-means to choose; the demo has eleven families


def pool_scores(scorer: Any, pool: Pool, seed: int, cache: Path, *, demonstrations: bool) -> dict[str, np.ndarray]:
    """Scores float64 [n] by the names of `plan.SCORES`, `embedding` float32 [n, d], and what the questions ask for.

    Rows that a method does not select from (an IFD above 1 where the published rule leaves those out, corrupted rows
    for the one who knows the truth) are NaN. NUGGETS and MIWV are there with `demonstrations`.
    """
    if cache.is_file():
        with np.load(cache) as found:
            return dict(found)
    rows = pool.rows
    influence = instsel.wici(scorer, rows, seed=seed)
    difficulty, losses = instsel.ifd(scorer, rows), instsel.ifd(scorer, rows, kind="loss")
    pairs = (influence.ifd, influence.one_shot_ifd, influence.probes, influence.similarity)
    helped = np.where(difficulty.ifd <= 1, 1.0, np.nan)  # both papers of IFD leave out what its prompt does not help
    rng = np.random.default_rng(seed)
    scores = {
        "random": rng.random(len(rows)),
        "truth": np.where(pool.truth == "clean", rng.random(len(rows)), np.nan),
        "length": difficulty.num_tokens.astype(np.float64),
        "perplexity low": difficulty.conditional,
        "perplexity high": -difficulty.conditional,
        "ifd high": difficulty.ifd * helped,
        "ifd low": -difficulty.ifd,
        "wici paper": influence.score,
        "wici release": score_by_rule(*pairs, "release") * helped,
        "gain": score_by_rule(*pairs, "gain"),
        "embedding": influence.embeddings,
        "ifd": difficulty.ifd,
        "ifd of losses": losses.ifd,
        "loss": -difficulty.conditional,
        "wici release, all": score_by_rule(*pairs, "release"),
    }
    if demonstrations:
        anchors = min(NUM_ANCHORS, len(rows))
        embedded = {"embedder": influence.embeddings}
        scores["nuggets"] = instsel.nuggets(scorer, rows, num_anchors=anchors, seed=seed, **embedded).score
        scores["miwv"] = instsel.miwv(scorer, rows, **embedded).score
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_suffix(".part").open("wb") as file:
        np.savez(file, **scores)
    cache.with_suffix(".part").replace(cache)
    return scores


def sentence_embeddings(model: str, rows: list[dict[str, str]], cache: Path) -> np.ndarray:
    """Embeddings of what the rows ask by a sentence model, kept in a file."""
    from instsel.neighbors.embeddings import embed

    if not cache.is_file():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, embed([f"{row['instruction']}\n{row['input']}".strip() for row in rows], model))
    found: np.ndarray = np.load(cache)
    return found
