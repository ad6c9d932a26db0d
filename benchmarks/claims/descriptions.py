"""What a pool's scores say of its rows: which ones each rule puts first and last, and if those are the hard ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from claims.plan import PoolKey
from claims.pools import Pool, demo_pool

RULES = ("wici paper", "wici release, all", "gain")
DIFFICULTIES = ("ifd", "ifd of losses", "loss")


def described_pools(folder: Path, keys: list[PoolKey]) -> list[tuple[PoolKey, dict[str, Any]]]:
    """The descriptions of those pools that have one, or scores to make one from; kept, as the scores need not be."""
    found = []
    for key in keys:
        path, scores = folder / "descriptions" / f"{key.name}.json", folder / "scores" / f"{key.name}.npz"
        if not path.is_file() and scores.is_file():
            with np.load(scores) as arrays:
                about = describe(demo_pool(key), dict(arrays))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(about) + "\n")
        if path.is_file():
            found.append((key, json.loads(path.read_text())))
    return found


def describe(pool: Pool, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """`composition` of the highest and lowest tenths, and `correlations` of each difficulty with each rule."""
    from scipy import stats

    correlations = {
        f"{difficulty} and {rule}": float(
            stats.spearmanr(scores[difficulty], scores[rule], nan_policy="omit").statistic
        )
        for difficulty in DIFFICULTIES for rule in RULES
    }  # fmt: skip
    return {"composition": composition(pool, scores), "correlations": correlations}


def composition(pool: Pool, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the rows with the highest and lowest tenth of each score are: classes, families, length, difficulty."""
    found = {}
    for name in RULES:
        order = np.argsort(-scores[name], kind="stable")
        order = order[np.isfinite(scores[name][order])]
        tenth = max(1, len(order) // 10)
        found[name] = {
            end: {
                "classes": {one: float((pool.truth[rows] == one).mean()) for one in np.unique(pool.truth)},
                "families": {one: float((pool.family[rows] == one).mean()) for one in np.unique(pool.family)},
                "tokens": float(scores["length"][rows].mean()),
                "ifd": float(np.nanmean(scores["ifd"][rows])),
                "loss": float(np.nanmean(scores["loss"][rows])),
            }
            for end, rows in (("highest", order[:tenth]), ("lowest", order[-tenth:]))
        }
    return found
