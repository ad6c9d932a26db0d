"""Requests in any form that is one, and input that is none: an error that names the request."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from random_models import VOCABULARY, shared_llama

import instsel


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(shared_llama(), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("requests", "error", "says"),
    [
        ([([5], [-1])], ValueError, r"requests\[0\].*0 to 210.*-1"),
        ([([5], [6]), ([VOCABULARY], [6])], ValueError, r"requests\[1\].*211"),
        ([([5], [2**40])], ValueError, r"requests\[0\]"),
        ([([5], [2**31])], ValueError, r"requests\[0\]"),
        ([([5], ["a"])], TypeError, r"requests\[0\]"),
        ([([5], [1.5])], TypeError, r"requests\[0\]"),
        ([([5], [None])], TypeError, r"requests\[0\]"),
        ([([5], 6)], TypeError, r"requests\[0\]"),
        ([([5], None)], TypeError, r"requests\[0\]"),
        ([([5],)], TypeError, r"requests\[0\]"),
        ([[5, 6, 7]], TypeError, r"requests\[0\]"),
        (["ab"], TypeError, r"requests\[0\]"),
        ("some text", TypeError, "requests"),
        (17, TypeError, "requests"),
        (None, TypeError, "requests"),
        ([("text", "more")], ValueError, "tokenizer"),
    ],
)
def test_wrong_requests_are_named(scorer: instsel.Scorer, requests: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        instsel.score_batch(scorer, requests)


@pytest.mark.parametrize("max_length", [0, 1, -5, 2.5, "10", True])
def test_wrong_max_length_is_named(scorer: instsel.Scorer, max_length: Any) -> None:
    with pytest.raises(ValueError, match="max_length"):
        instsel.score_batch(scorer, [([5], [6])], max_length=max_length)


@pytest.mark.parametrize("kind", [np.array, tuple, lambda ids: torch.tensor(ids), lambda ids: np.array(ids, np.uint16)])
def test_ids_may_come_in_any_flat_form(scorer: instsel.Scorer, kind: Any) -> None:
    plain = instsel.score_batch(scorer, [([5, 6], [7, 8])]).mean_logprob
    assert instsel.score_batch(scorer, [(kind([5, 6]), kind([7, 8]))]).mean_logprob.tolist() == plain.tolist()


def test_a_generator_of_requests_is_read_once(scorer: instsel.Scorer) -> None:
    assert instsel.score_batch(scorer, (([5], [n]) for n in range(6, 9))).num_tokens.tolist() == [1, 1, 1]
