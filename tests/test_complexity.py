"""Complexity: each ordering against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_by_one import OneByOne
from slices import slice_of

import instsel
from instsel.methods.complexity import complexity_columns
from instsel.methods.in_memory import run_in_memory
from instsel.methods.parameters import Parameters
from instsel.methods.rating_prompts import RATING_PROMPT
from instsel.methods.wici import InfluenceParameters
from instsel.records import Example

EXAMPLES = [
    Example("say the thing", "", "the king"),
    Example("say the thing", "in a theory", "a king, singing in the thing"),
    Example("say", "", ""),
    Example("say", "", "the " * 400),
    Example("say the king", "", "the king sings"),
]


def complexity_values(
    complexity: Any, scorer: instsel.Scorer, examples: Any, *, max_length: int | None = None, **options: Any
) -> tuple[np.ndarray, Any]:
    part = slice_of(scorer, examples, parameters=Parameters(max_length=max_length))
    return complexity_columns(part, complexity, **options)["complexity"], part.stats


def test_length_is_tokens_of_the_answer(scorer: instsel.Scorer, truth: OneByOne) -> None:
    values, stats = complexity_values("length", scorer, EXAMPLES)
    want = [len(truth.token_logprobs("say\n", EXAMPLES[i].response)) for i in (0, 1, 4)]
    assert values[[0, 1, 4]].tolist() == want
    assert np.isnan(values[[2, 3]]).all(), "what cannot be scored is less complex than anything"
    assert stats.tokens_forwarded == 0
    longest = truth.length("say the thing\nin a theory\n" + EXAMPLES[1].response)
    assert np.isfinite(complexity_values("length", scorer, EXAMPLES, max_length=longest)[0][1])
    shorter, _ = complexity_values("length", scorer, EXAMPLES, max_length=longest - 1)
    assert np.isnan(shorter).tolist() == [False, True, True, True, False]


def test_ifd_is_the_examples_own(scorer: instsel.Scorer) -> None:
    values, _ = complexity_values("ifd", scorer, EXAMPLES)
    np.testing.assert_allclose(values, instsel.ifd(scorer, EXAMPLES).ifd, rtol=1e-5)
    assert np.isfinite(values).tolist() == [True, True, False, False, True]


def test_a_rating_is_the_expected_one(scorer: instsel.Scorer, truth: OneByOne) -> None:
    values, stats = complexity_values("deita", scorer, EXAMPLES)
    for example, value in zip(EXAMPLES, values, strict=True):
        asked = example.instruction + ("\n" + example.input if example.input else "")
        prompt = RATING_PROMPT.replace("{request}", asked)
        share = np.exp([truth.token_logprobs(prompt, rating).sum() for rating in "123456"])
        assert value == pytest.approx((share * [1, 2, 3, 4, 5, 6]).sum() / share.sum(), rel=1e-4)
    assert np.std(values[[0, 1, 4]]) > 1e-3, "the control: the request is in the prompt"
    assert values[2] == pytest.approx(values[3], abs=1e-5), "the answer is not"
    assert stats.sequences == 30
    assert stats.tokens_unshared > 6 * stats.tokens_forwarded, "the six ratings share their prompt"


def test_a_rating_model_and_prompt_of_ones_own(scorer: instsel.Scorer) -> None:
    plain, _ = complexity_values("deita", scorer, EXAMPLES)
    other, _ = complexity_values("deita", scorer, EXAMPLES, rating_prompt="{request}\n##Complexity: ")
    assert np.abs(plain - other).max() > 1e-3
    broken = instsel.Scorer("no/such/folder")
    rated, _ = complexity_values("deita", broken, EXAMPLES, rater=scorer)
    assert rated.tolist() == plain.tolist()
    long = [Example("the " * 400), EXAMPLES[0]]
    assert np.isnan(complexity_values("deita", scorer, long)[0]).tolist() == [True, False]
    with pytest.raises(ValueError, match=r'rating_prompt must contain "\{request\}", got \'how hard\?\''):
        instsel.wici(scorer, EXAMPLES, complexity="deita", rating_prompt="how hard?")


@pytest.mark.parametrize(
    ("complexity", "expected"),
    [([5, 4, 3, 2, 1], [5, 4, 3, 2, 1]), (lambda found: [len(e.instruction) for e in found], [13, 13, 3, 3, 12])],
)
def test_numbers_and_functions(scorer: instsel.Scorer, complexity: Any, expected: list[int]) -> None:
    """The probe of a cluster is the member with the highest number, so one probe is the neighbour with it."""
    embeddings = np.eye(5, 3) + 1.0
    found = instsel.wici(scorer, EXAMPLES, embedder=embeddings, complexity=complexity, num_neighbors=4, num_probes=1)
    for row, probe in enumerate(found.probes[:, 0].tolist()):
        others = [value for other, value in enumerate(expected) if other != row]
        assert expected[probe] == max(others)


def test_a_column_of_numbers(scorer: instsel.Scorer) -> None:
    rows = [{"instruction": f"say {i}", "output": "a king", "rank": rank} for i, rank in enumerate((2, 7, None, 3))]
    told = InfluenceParameters(complexity="rank", num_neighbors=3, num_probes=1, embedder=np.ones((4, 2)))
    outcome = run_in_memory(instsel.wici.method, scorer, rows, told)
    assert outcome.columns["complexity"][[0, 1, 3]].tolist() == [2, 7, 3]
    assert np.isnan(outcome.columns["complexity"][2])
    assert outcome.columns["probes"][:, 0].tolist() == [1, 3, 1, 1], "a row without a number is below all others"


@pytest.mark.parametrize(
    ("complexity", "message"),
    [
        (
            "size",
            "length, ifd, deita, quality, compqual, numbers or a column, got 'size'; the columns are none",
        ),
        ([1, 2], r"complexity must be numbers \[5\], one for each example, got shape \[2\]"),
        (["a"] * 5, r"complexity must be numbers \[5\], got list of other things"),
        (lambda examples: [[1]] * 5, r"got shape \[5, 1\]"),
    ],
)
def test_what_is_refused(scorer: instsel.Scorer, complexity: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instsel.wici(scorer, EXAMPLES, complexity=complexity)
