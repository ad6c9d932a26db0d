"""Rank correlation of two scores, with a confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation: `rho` over `count` rows, and the interval `low` to `high` at `confidence`."""

    rho: float
    low: float
    high: float
    count: int
    confidence: float


def spearman_correlation(
    x: object, y: object, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Correlation:
    """Spearman's rank correlation of difficulty and influence, say, with a bootstrap interval.

        rho = Pearson correlation of the ranks of x and y, tied values having the mean of their ranks

    The interval is the percentile bootstrap's: rows are drawn with replacement `resamples` times and ranked anew.

    `x` and `y` are numbers `[n]`; rows where either is NaN or infinite are left out. All of the result is NaN where
    fewer than two rows are left or one side is constant.

    Raises ValueError where shapes differ, `confidence` is not between 0 and 1, or `resamples` is below 1.

    >>> spearman_correlation([1, 2, 3, 4, 5], [1, 3, 2, 4, 9]).rho
    0.9
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be numbers [n] of one length, got shapes {list(x.shape)} and {list(y.shape)}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    if isinstance(resamples, bool) or not isinstance(resamples, int | np.integer) or resamples < 1:
        raise ValueError(f"resamples must be a whole number of at least 1, got {resamples!r}")
    usable = np.isfinite(x) & np.isfinite(y)
    first, second = (np.unique(values[usable], return_inverse=True)[1] for values in (x, y))
    count = len(first)
    rho = _weighted(first, second, np.ones(count))
    if np.isnan(rho):
        return Correlation(rho, np.nan, np.nan, count, confidence)
    generator = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        # A resample is how often each row was drawn: its ranks follow from sums, with no sorting.
        weight = np.bincount(generator.integers(0, count, count), minlength=count)
        drawn[i] = _weighted(first, second, weight)
    drawn = drawn[~np.isnan(drawn)]  # a resample may be constant where there are few rows
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(drawn) else (np.nan, np.nan)
    return Correlation(rho, float(low), float(high), count, confidence)


def _weighted(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Spearman's rho of rows that occur `weight` times; `first` and `second` are the places of their sorted values."""
    total = weight.sum()
    if total < 2:
        return float("nan")
    a, b = (_mean_ranks(place, weight) - (total + 1) / 2 for place in (first, second))
    spread = np.sqrt((weight * a * a).sum() * (weight * b * b).sum())
    if spread == 0:
        return float("nan")
    return float(np.clip((weight * a * b).sum() / spread, -1.0, 1.0))


def _mean_ranks(place: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The rank of each row, from 1 up, tied rows having the mean of theirs."""
    size = np.bincount(place, weights=weight)
    return (np.cumsum(size) - (size - 1) / 2)[place]
