"""Rank correlation against scipy, and the interval against the truth it is to cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from instsel.methods.correlation import spearman_correlation


@pytest.mark.parametrize("rows", [3, 10, 200, 2000])
@pytest.mark.parametrize("ties", [False, True])
def test_rho_is_scipys(rows: int, ties: bool) -> None:
    rng = np.random.default_rng(rows)
    x = rng.integers(0, 3 + rows // 5, rows).astype(float) if ties else rng.normal(size=rows)
    y = np.round(x + rng.normal(size=rows) * x.std(), 0 if ties else 9)
    found = spearman_correlation(x, y, resamples=50)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert found.low <= found.high
    assert found.count == rows


@pytest.mark.long
def test_the_interval_is_the_percentile_bootstraps() -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 12, 80).astype(float)
    y = x + rng.normal(size=80) * 6
    found = spearman_correlation(x, y, resamples=4000, confidence=0.9)
    drawn = [stats.spearmanr(x[i], y[i]).statistic for i in rng.integers(0, 80, (4000, 80))]
    spread = np.std(drawn)
    # Each end is a quantile of 4,000 draws, twice over: its own error is about 0.03 of the spread.
    assert [found.low, found.high] == pytest.approx(np.quantile(drawn, [0.05, 0.95]).tolist(), abs=0.15 * spread)


@pytest.mark.long
def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(2)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # of a bivariate normal distribution with correlation 0.5
    covered = []
    for _ in range(120):
        x = rng.normal(size=150)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=150)
        found = spearman_correlation(x, y, resamples=200)
        covered.append([found.low <= truth <= found.high, found.low <= 0 <= found.high])
    shares = np.mean(covered, axis=0)
    assert 0.89 <= shares[0] <= 0.99
    assert shares[1] < 0.05, "the control: it does not cover a wrong value"


def test_rows_without_a_number_are_left_out_and_order_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=40), rng.normal(size=40)
    order = rng.permutation(40)
    whole = spearman_correlation(x, y)
    assert spearman_correlation(x[order], y[order]).rho == pytest.approx(whole.rho, abs=1e-12)
    more = spearman_correlation([*x, np.nan, 1.0, np.inf], [*y, 1.0, np.nan, 2.0])
    assert (more.rho, more.count) == (whole.rho, 40)
    assert spearman_correlation(x, np.exp(y)).rho == whole.rho, "only ranks count"


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([np.nan] * 3, [1.0] * 3)]
)
def test_where_there_is_no_correlation(x: list[float], y: list[float]) -> None:
    found = spearman_correlation(x, y)
    assert np.isnan([found.rho, found.low, found.high]).all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x and y must be numbers \[n\] of one length, got shapes \[2\] and \[1\]"):
        spearman_correlation([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
        spearman_correlation([1.0, 2.0], [1.0, 2.0], confidence=95)
    with pytest.raises(ValueError, match="resamples must be a whole number of at least 1, got 0"):
        spearman_correlation([1.0, 2.0], [1.0, 2.0], resamples=0)
