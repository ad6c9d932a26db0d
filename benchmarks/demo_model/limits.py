"""What keeps wICI from telling clean candidates from corrupted ones: its influences combined by one who knows more."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np


def combinations(influence: np.ndarray, sound_probe: np.ndarray, family: Sequence[str]) -> dict[str, np.ndarray]:
    """Means over the probes, each leaving out one more of what disturbs wICI; float64 [n], NaN where there is none.

    "without weights" is the plain mean of the influences; "sound probes alone" leaves out the probes that are
    corrupted themselves; "within families" subtracts from this the median of the candidate's family, since one family
    gains more from any demonstration than another. The last two need what only the generator knows. `influence` and
    `sound_probe` are [n, k], NaN and False where there is no probe.

    >>> found = combinations(np.array([[1.0, -3.0], [2.0, 0.0]]), np.array([[True, False], [True, True]]), ["a", "a"])
    >>> {name: values.tolist() for name, values in found.items()}
    {'without weights': [-1.0, 1.0], 'sound probes alone': [1.0, 1.0], 'within families': [0.0, 0.0]}
    """
    sound = _mean(np.where(sound_probe, influence, np.nan))
    families = np.asarray(family)
    within = sound.copy()
    for name in set(families.tolist()):
        members = families == name
        known = sound[members & np.isfinite(sound)]
        within[members] -= np.median(known) if len(known) else np.nan
    return {"without weights": _mean(influence), "sound probes alone": sound, "within families": within}


def _mean(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row without any value has no mean
        return np.nanmean(values, axis=1)
