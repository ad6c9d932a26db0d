"""What a score or a filter sees of each kind of damage: a question that needs no tuning."""

from __future__ import annotations

import numpy as np
from real_rows import plan
from real_rows.damage import CLEAN
from real_rows.rules import Scored

from instsel.selection.length_strata import rank_within_strata


def seen_damage(scored: Scored) -> dict[str, dict[str, float]]:
    """For each kind of damage: the share that the filters leave out, and how well each score tells it from clean rows.

    The latter is the chance that a damaged row is nearer to being dropped than a clean one (the area under the ROC
    curve; 0.5 is blind): by the higher IFD, that within strata of length, the lower log-probability after the prompt,
    and the lower one of the answer alone. "clean" says what the filters take of clean rows, copied ones included.
    """
    everyone, lengths = np.ones(len(scored.ifd), bool), scored.pool.lengths.astype(np.float64)
    scores = {
        "ifd": scored.ifd,
        "ifd of like length": rank_within_strata(scored.ifd, lengths, everyone, plan.STRATA),
        "perplexity": -scored.conditional,
        "perplexity alone": -scored.difficulties()[:, 0],
    }
    kinds, clean = scored.pool.kinds, scored.pool.kinds == CLEAN
    found = {CLEAN: {"filters": float(np.mean(~scored.passed[clean]))}}
    for kind in sorted(set(kinds.tolist()) - {CLEAN}):
        of_kind = kinds == kind
        found[kind] = {"filters": float(np.mean(~scored.passed[of_kind]))}
        found[kind] |= {name: area_under_curve(score[of_kind], score[clean]) for name, score in scores.items()}
    return found


def followed_by_influence(scored: Scored) -> dict[str, dict[str, float]]:
    """Spearman's correlation of each kind of influence with difficulty and length, and what it sees of the damage.

    `seen_...` is the chance that a damaged row has the lower influence than a clean one.
    """
    from scipy import stats

    difficulty = {"ifd": scored.ifd, "perplexity": -scored.conditional, "length": scored.pool.lengths}
    kinds, clean = scored.pool.kinds, scored.pool.kinds == CLEAN
    found = {}
    for rule in ("paper", "gain"):
        score = scored.influence(rule)
        known = np.isfinite(score)
        found[rule] = {
            name: float(stats.spearmanr(score[known], other[known]).statistic) for name, other in difficulty.items()
        }
        for kind in sorted(set(kinds.tolist()) - {CLEAN}):
            of_kind = known & (kinds == kind)
            if of_kind.any():
                found[rule][f"seen_{kind}"] = area_under_curve(-score[of_kind], -score[known & clean])
    return found


def mean_scores(scored: Scored, rows: np.ndarray) -> dict[str, float]:
    """Of some rows: the mean of each score that is finite, and the share of rows that are clean."""
    scores = {
        "IFD": scored.ifd, "loss": -scored.conditional, "length": scored.pool.lengths,
        "wICI, paper": scored.influence("paper"), "wICI, gain": scored.influence("gain"),
    }  # fmt: skip
    means = {
        name: float(np.nanmean(np.where(np.isfinite(score[rows]), score[rows], np.nan)))
        for name, score in scores.items()
    }
    return {**means, "share of clean rows": float(np.mean(scored.pool.kinds[rows] == CLEAN))}


def area_under_curve(above: np.ndarray, below: np.ndarray) -> float:
    """The chance that a number of the first is higher than one of the second, ties counted by half.

    >>> area_under_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    difference = above[:, None] - below
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))
