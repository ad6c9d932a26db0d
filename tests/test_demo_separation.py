"""The evaluation's arithmetic against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from demo_model.evaluate import over_seeds
from scipy import stats
from sklearn.metrics import roc_auc_score

from instsel.demo.corruption import CORRUPTED_CLASSES
from instsel.demo.separation import area_under_curve, areas_by_class


@pytest.mark.parametrize("seed", range(5))
def test_area_agrees_with_scikit_learn_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good, bad = rng.integers(0, 9, 40).astype(float), rng.integers(0, 7, 25).astype(float)
    expected = roc_auc_score(np.r_[np.ones(40), np.zeros(25)], np.r_[good, bad])
    assert area_under_curve(good, bad) == pytest.approx(expected, abs=1e-12)
    assert area_under_curve(bad, good) == pytest.approx(1 - expected, abs=1e-12)


def test_a_row_without_a_score_ranks_last() -> None:
    assert area_under_curve(np.array([1.0, 2.0]), np.array([np.nan, np.nan])) == 1.0
    assert area_under_curve(np.array([np.nan]), np.array([-1e300])) == 0.0
    assert area_under_curve(np.array([np.nan]), np.array([np.nan])) == 0.5
    with pytest.raises(ValueError, match="at least one row, got 0 and 2"):
        area_under_curve(np.zeros(0), np.zeros(2))


def test_areas_by_class_compares_with_clean_rows_only() -> None:
    truth = np.array(["clean"] * 4 + [name for name in CORRUPTED_CLASSES for _ in range(3)] + ["duplicate"] * 2)
    score = np.where(truth == "clean", 1.0, 0.0)
    score[truth == "duplicate"] = 1.0
    areas = areas_by_class({"perfect": score, "reversed": -score}, truth)
    for name in (*CORRUPTED_CLASSES, "all corrupted"):
        assert areas["perfect"][name] == 1.0 and areas["reversed"][name] == 0.0
    assert areas["perfect"]["duplicate"] == 0.5


@pytest.mark.parametrize("count", (2, 5, 16))
def test_interval_is_students(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    found = over_seeds(values.tolist())
    low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-12)
    assert found["half_width"] == pytest.approx((high - low) / 2)
