"""Quotas whose rows are drawn: from each cluster's best share only, each of them as likely, the quotas unchanged."""

import numpy as np
import pytest

import instsel

LABELS = np.repeat([0, 1, 2], [60, 30, 10])
SCORE = np.random.default_rng(0).permutation(100).astype(float)


def drawn(seed, **options):
    return instsel.select(
        SCORE, 20, coverage="proportional", clusters=LABELS, seed=seed, **{"draw_share": 0.5, **options}
    )


def test_only_each_clusters_best_share_is_drawn_from_and_its_quota_is_filled():
    for seed in range(50):
        rows = drawn(seed)
        assert np.bincount(LABELS[rows]).tolist() == [12, 6, 2]
        for label in range(3):
            scores = np.sort(SCORE[label == LABELS])
            assert SCORE[rows[LABELS[rows] == label]].min() >= scores[len(scores) // 2]


def test_every_row_of_the_better_half_is_as_likely():
    times = np.bincount(np.concatenate([drawn(seed) for seed in range(1000)]), minlength=100)
    better = times[times > 0]
    assert len(better) == 50
    # 400 expected of each; six standard deviations of a binomial of 1,000 draws are 93. The highest scores of a
    # cluster, which plain quotas take each time, would stand at 1,000.
    assert abs(better - 400).max() < 93


def test_where_a_quota_is_larger_than_the_share_the_next_best_follow():
    rows = instsel.select(SCORE, 80, coverage="proportional", clusters=LABELS, draw_share=0.5)
    for label in range(3):
        mine = SCORE[label == LABELS]
        assert SCORE[rows[LABELS[rows] == label]].min() == np.sort(mine)[len(mine) // 5]


def test_the_whole_share_draws_from_all_and_rows_without_a_score_never_come():
    score = np.where(np.arange(100) % 4 == 0, np.nan, SCORE)
    rows = instsel.select(score, 20, coverage="equal", clusters=LABELS, draw_share=1.0)
    assert np.isfinite(score[rows]).all() and len(set(rows.tolist())) == 20


@pytest.mark.parametrize("share", [0, 1.5, -0.1, True, "half", float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"draw_share must be a share above 0 and at most 1, got"):
        drawn(0, draw_share=share)


def test_without_quotas_there_is_nothing_to_draw_from():
    with pytest.raises(ValueError, match=r"draw_share needs coverage 'proportional' or 'equal', got None"):
        instsel.select(SCORE, 20, draw_share=0.5)
