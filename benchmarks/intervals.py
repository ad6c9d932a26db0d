"""Means over seeds with their intervals, and paired differences corrected for how many are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and its 95 % interval by Student's t.

    >>> {name: round(value, 3) for name, value in mean_interval([1.0, 2.0, 3.0]).items()}
    {'mean': 2.0, 'low': -0.484, 'high': 4.484}
    """
    from scipy import stats

    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    half = (
        float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else 0.0
    )
    return {"mean": mean, "low": mean - half, "high": mean + half}


def paired_differences(losses: Mapping[str, Mapping[int, float]], reference: str) -> dict[str, dict[str, Any]]:
    """Each name's loss minus the reference's on the same seeds: mean, 95 % interval, and Holm's p value.

    `losses` gives each name's values by seed. p is of the two-sided paired t test; Holm's correction counts all names
    that are compared here: `p_holm` below 0.05 holds for all of them together.
    """
    from scipy import stats

    found: dict[str, dict[str, Any]] = {}
    for name, by_seed in losses.items():
        seeds = sorted(set(by_seed) & set(losses[reference]))
        if name == reference or len(seeds) < 2:
            continue
        differences = [by_seed[seed] - losses[reference][seed] for seed in seeds]
        p = float(stats.ttest_1samp(differences, 0.0).pvalue) if np.ptp(differences) else 1.0
        found[name] = {**mean_interval(differences), "p": p, "seeds": len(seeds)}
    running = 0.0
    for rank, name in enumerate(sorted(found, key=lambda one: found[one]["p"])):
        running = max(running, min(1.0, found[name]["p"] * (len(found) - rank)))
        found[name]["p_holm"] = running
    return found


def written(found: Mapping[str, Any], digits: int = 3, *, sign: bool = False) -> str:
    """A mean and its interval."""
    plus = "+" if sign else ""
    return f"{found['mean']:{plus}.{digits}f} ({found['low']:{plus}.{digits}f} to {found['high']:{plus}.{digits}f})"
