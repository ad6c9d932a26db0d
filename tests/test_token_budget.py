"""Selection to a number of tokens against the loop that its definition describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instsel.selection import select

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths, st.integers(1, 600), st.integers(0, 2**32))
def test_rows_that_do_not_fit_are_skipped(tokens: list[int], limit: int, seed: int) -> None:
    score = np.random.default_rng(seed).integers(0, 9, len(tokens)).astype(float)
    if limit < min(tokens):
        with pytest.raises(ValueError, match=f"budget_tokens must be at least {min(tokens)}, the shortest row's"):
            select(score, budget_tokens=limit, num_tokens=tokens)
        return
    want, left = [], limit
    for row in sorted(range(len(tokens)), key=lambda row: (-score[row], row)):
        if tokens[row] <= left:
            want.append(row)
            left -= tokens[row]
    assert select(score, budget_tokens=limit, num_tokens=tokens).tolist() == want


@pytest.mark.parametrize("options", [{}, {"coverage": "equal", "clusters": [0, 1, 1]}])
def test_more_tokens_than_there_are_take_all(options: dict[str, Any]) -> None:
    assert select([1.0, 2.0, 3.0], budget_tokens=10**30, num_tokens=[4, 5, 6], **options).tolist() == [2, 1, 0]


def test_the_cosine_rule_comes_first() -> None:
    """A copy is left out also where the better row was too long: what is selected does not hang on the budget so."""
    embeddings = [[1, 0], [1, 0], [0, 1]]
    got = select([3.0, 2.0, 1.0], budget_tokens=10, num_tokens=[20, 5, 5], embeddings=embeddings)
    assert got.tolist() == [2]


def test_lengths_of_rows_left_out_do_not_matter() -> None:
    score, tokens = [3.0, np.nan, 2.0, 1.0], [4.0, np.nan, 5.0, np.nan]
    selectable = [True, True, True, False]
    assert select(score, budget_tokens=9, num_tokens=tokens, selectable=selectable).tolist() == [0, 2]
    assert select([np.nan], budget_tokens=9, num_tokens=[np.nan]).tolist() == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, r"give one of budget \(rows\) and budget_tokens, got neither"),
        ({"budget": 1, "budget_tokens": 5}, ValueError, r"give one of .* got both"),
        ({"budget_tokens": 5}, ValueError, r"budget_tokens needs num_tokens, the length of each row"),
        ({"budget_tokens": 5, "num_tokens": [1, 2]}, ValueError, r"num_tokens must be numbers \[3\].* shape \[2\]"),
        ({"budget_tokens": 5, "num_tokens": ["a", "b", "c"]}, ValueError, r"num_tokens must be numbers \[3\]"),
        ({"budget_tokens": 5, "num_tokens": [1, np.nan, 2]}, ValueError, "at least 1, got nan in row 1"),
        ({"budget_tokens": 5, "num_tokens": [1, 2, 0]}, ValueError, "at least 1, got 0 in row 2"),
        ({"budget_tokens": 5, "num_tokens": [1, 2.5, 0]}, ValueError, "at least 1, got 2.5 in row 1"),
        ({"budget_tokens": 5, "num_tokens": [1, 2, np.inf]}, ValueError, "at least 1, got inf in row 2"),
        ({"budget_tokens": 2, "num_tokens": [5, 3, 4]}, ValueError, "at least 3, the shortest row's tokens, got 2"),
        ({"budget_tokens": 0, "num_tokens": [5, 3, 4]}, ValueError, "at least 3, the shortest row's tokens, got 0"),
        ({"budget_tokens": 0.5, "num_tokens": [5, 3, 4]}, TypeError, "whole number of tokens, got 0.5"),
        ({"budget": 1, "max_score": float("nan")}, ValueError, "max_score must be a number, got nan"),
        ({"budget": 1, "max_score": "1"}, ValueError, "max_score must be a number, got '1'"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select([1.0, 2.0, 3.0], **options)


def test_the_highest_score_allowed() -> None:
    """IFD above 1: the prompt makes its answer harder. At 1 exactly it does not."""
    ifd = [0.5, 1.2, 1.0, np.inf, 0.9]
    assert select(ifd, 5, max_score=1.0).tolist() == [2, 4, 0]
    assert select(ifd, 5).tolist() == [1, 2, 4, 0]
