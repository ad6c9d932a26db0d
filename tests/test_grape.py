"""GRAPE of a small real model against float64 forwards, one sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from one_by_one import OneByOne
from tiny_model import tiny_model_folder
from transformers import AutoTokenizer

import instsel
from instsel.methods import in_memory
from instsel.records import Group

TOLERANCE = 2e-5  # nats a token


def groups() -> list[dict[str, Any]]:
    words = ["the", "thing", "in a", "king", "sing", "answering", "theory"]
    return [
        {
            "instruction": f"say the {words[g % 7]} {g}",
            "input": "in the thing" * (g % 2),
            "candidates": [
                {"response": " ".join(words[(g * c + k) % 7] for k in range(1 + c))} for c in range(2 + g % 4)
            ],
        }
        for g in range(9)
    ]


@pytest.mark.parametrize("include_eos", [False, True])
def test_as_one_forward_an_answer(scorer: instsel.Scorer, truth: OneByOne, include_eos: bool) -> None:
    by_mean = instsel.grape(scorer, groups(), include_eos=include_eos)
    by_sum = instsel.grape(scorer, groups(), normalize="sum", include_eos=include_eos)
    end = [truth.tokenizer.eos_token_id] if include_eos else None
    for g, group in enumerate(groups()):
        prompt = group["instruction"] + "\n" + (group["input"] + "\n" if group["input"] else "")
        each = [truth.token_logprobs(prompt, one["response"], end) for one in group["candidates"]]
        np.testing.assert_allclose(by_mean.scores[g], [x.mean() for x in each], atol=TOLERANCE)
        np.testing.assert_allclose(by_sum.scores[g], [x.sum() for x in each], atol=TOLERANCE * max(map(len, each)))
        assert by_mean.best[g] == np.argmax([x.mean() for x in each])
        assert by_sum.best[g] == np.argmax([x.sum() for x in each])
    assert by_mean.status.tolist() == ["ok"] * 9
    assert (by_mean.best != by_sum.best).any(), "the control: the normalisation decides"


def test_the_end_of_text_is_scored_as_a_token_of_the_answer(scorer: instsel.Scorer) -> None:
    without, with_end = (instsel.grape(scorer, groups(), normalize="sum", include_eos=e) for e in (False, True))
    for a, b in zip(without.scores, with_end.scores, strict=True):
        assert (b < a - 1e-3).all(), "one more token, so a lower sum"


def test_answers_that_cannot_be_scored(scorer: instsel.Scorer) -> None:
    rows = [
        Group("say", responses=("", "the king", "the " * 400, "the king")),
        Group("say", responses=()),
        Group("say", responses=("the " * 400, "")),
        Group("say", responses=(" \n", "the " * 400)),
        Group("the " * 400, responses=("a", "b")),
    ]
    for include_eos in (False, True):
        found = instsel.grape(scorer, rows, include_eos=include_eos)
        assert found.best.tolist() == [1, -1, -1, -1, -1], "of equal answers the first"
        assert found.status.tolist() == ["ok", "empty_target", "too_long", "empty_target", "too_long"]
        assert [np.isfinite(scores).tolist() for scores in found.scores] == [
            [False, True, False, True], [], [False] * 2, [False] * 2, [False] * 2,
        ]  # fmt: skip
        assert found.scores[0][1] == found.scores[0][3], "copies are equal"


def test_order_company_and_slices_do_not_matter(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = groups()
    whole = instsel.grape(scorer, rows)
    order = np.random.default_rng(0).permutation(9)
    moved = instsel.grape(scorer, [rows[i] for i in order])
    assert moved.best.tolist() == whole.best[order].tolist()
    for place, row in enumerate(order):
        np.testing.assert_allclose(moved.scores[place], whole.scores[row], atol=TOLERANCE)
    monkeypatch.setattr(in_memory, "rows_at_a_time", lambda stage, length, *rest: 2)
    chunked = instsel.grape(scorer, rows)
    for a, b in zip(chunked.scores, whole.scores, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    assert chunked.best.tolist() == whole.best.tolist()
    assert chunked.stats.sequences == whole.stats.sequences
    turned = dict(rows[3], candidates=rows[3]["candidates"][::-1])
    assert instsel.grape(scorer, [turned]).best[0] == len(turned["candidates"]) - 1 - whole.best[3]


def test_a_groups_prompt_goes_through_the_model_once(scorer: instsel.Scorer, truth: OneByOne) -> None:
    prompt = "say the thing in a theory of things"
    found = instsel.grape(scorer, [Group(prompt, responses=("a", "bc", "def"))])
    # One copy of the prompt and its line feed, and of each answer all tokens but the last.
    assert found.stats.tokens_forwarded == truth.length(prompt + "\n") + 0 + 1 + 2


def test_no_groups(scorer: instsel.Scorer) -> None:
    found = instsel.grape(scorer, [])
    assert (found.best.tolist(), found.scores, found.status.tolist()) == ([], [], [])


def test_what_is_refused(scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match="normalize must be one of mean, sum, got 'median'"):
        instsel.grape(scorer, groups(), normalize="median")
    with pytest.raises(ValueError, match="template must be one of"):
        instsel.grape(scorer, groups(), template="other")
    without_end = AutoTokenizer.from_pretrained(tiny_model_folder())
    without_end.eos_token = None
    with pytest.raises(ValueError, match="include_eos needs a tokenizer with an EOS token"):
        instsel.grape(instsel.Scorer(tiny_model_folder(), tokenizer=without_end), groups(), include_eos=True)


def test_what_is_surely_too_long_is_not_tokenised_with_an_end_either(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    read: list[int] = []

    class Watched(type(tokenizer)):  # type: ignore[misc]
        def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
            read.append(sum(map(len, text)) if isinstance(text, list) else len(text))
            return super().__call__(text, *args, **kwargs)

    watched = Watched(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>")
    scorer = instsel.Scorer(tiny_model_folder(), tokenizer=watched, device="cpu", dtype="float32")
    rows = [Group("say", responses=("the king", "the " * 250_000)), Group("the " * 250_000, responses=("a", ""))]
    for include_eos in (False, True):
        found = instsel.grape(scorer, rows, include_eos=include_eos)
        assert found.status.tolist() == ["ok", "too_long"]
        assert np.isfinite(found.scores[0]).tolist() == [True, False]
        assert np.isnan(found.scores[1]).all()
    assert 0 < max(read) < 200, "a megabyte is not read"


def test_the_end_counts_towards_the_limit(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = [Group("say", responses=("the king",))]
    length = truth.length("say\nthe king")
    assert instsel.grape(scorer, rows, max_length=length).status.tolist() == ["ok"]
    assert instsel.grape(scorer, rows, max_length=length, include_eos=True).status.tolist() == ["too_long"]
    assert instsel.grape(scorer, rows, max_length=length + 1, include_eos=True).status.tolist() == ["ok"]
    with pytest.raises(ValueError, match="max_length: expected an integer of at least 2, got 'long'"):
        instsel.grape(scorer, rows, max_length="long", include_eos=True)  # type: ignore[arg-type]
