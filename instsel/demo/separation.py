"""How well a score tells clean candidates from corrupted ones: areas under the ROC curve."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from instsel.demo.corruption import CORRUPTED_CLASSES


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """Area under the ROC curve: how often a good row scores above a bad one, ties counting half.

    `P(good > bad) + P(good = bad) / 2`, with `good` float [n] and `bad` float [m]; a row without a score (NaN) cannot
    be selected and ranks below all others. Raises ValueError where one of them is empty.

    >>> area_under_curve(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not len(good) or not len(bad):
        raise ValueError(f"good and bad must each have at least one row, got {len(good)} and {len(bad)}")
    good, bad = (np.where(np.isnan(score), -np.inf, score) for score in (good, bad))
    ordered = np.sort(bad)
    below = np.searchsorted(ordered, good, "left")
    up_to = np.searchsorted(ordered, good, "right")
    return float((below + up_to).mean() / 2 / len(bad))


def areas_by_class(scores: Mapping[str, np.ndarray], truth: np.ndarray) -> dict[str, dict[str, float]]:
    """Areas of each score for clean rows against each corrupted class, all of these together, and duplicates."""
    classes = {name: truth == name for name in CORRUPTED_CLASSES}
    classes["all corrupted"] = np.isin(truth, CORRUPTED_CLASSES)
    classes["duplicate"] = truth == "duplicate"
    clean = truth == "clean"
    return {
        score_name: {name: area_under_curve(score[clean], score[rows]) for name, rows in classes.items()}
        for score_name, score in scores.items()
    }
