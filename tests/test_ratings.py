"""Ratings read from digits: each must be one token, of its own, after the same tokens; otherwise the digit is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from one_by_one import OneByOne
from tiny_model import tiny_model_folder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import instsel
from instsel.methods.rating_prompts import RATING_PROMPT
from instsel.methods.ratings import expected_rating, rating_logprobs, rating_requests, shares
from instsel.methods.stages import StageSlice
from instsel.records import Example, to_examples

PROMPT = "{request}\n{response}\ngrade: "


def part(scorer: instsel.Scorer, examples: list[Example], **parameters: Any) -> StageSlice[Any]:
    from instsel.methods.parameters import Parameters

    return StageSlice(range(len(examples)), len(examples), Parameters(**parameters), scorer, dict(enumerate(examples)))


def changed(change: Callable[[Tokenizer], None]) -> instsel.Scorer:
    """The small model with a tokenizer that writes digits in some other way."""
    from transformers import AutoTokenizer

    backend = copy.deepcopy(AutoTokenizer.from_pretrained(tiny_model_folder()).backend_tokenizer)
    change(backend)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    return instsel.Scorer(tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32")


def spells_three(backend: Tokenizer) -> None:
    backend.normalizer = normalizers.Replace("3", "three")


def knows_no_digit_above_two(backend: Tokenizer) -> None:
    words = {"<s>": 0, "</s>": 1, "<unk>": 2, "grade": 3, ":": 4, "1": 5, "2": 6}
    backend.model = models.WordLevel(words, unk_token="<unk>")
    backend.pre_tokenizer = pre_tokenizers.Whitespace()


def joins_a_blank_to_one(backend: Tokenizer) -> None:
    from tokenizers.models import BPE

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "</s>", *alphabet, "Ġ1"])}
    backend.model = BPE(vocabulary, [("Ġ", "1")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spells_three, r"a rating must be one token, and after the prompt that ends in '.*grade: ' .* makes 4 of '3'"),
        (knows_no_digit_above_two, r"each rating must be a token of its own, .* gives '4' the token of '3'"),
        (joins_a_blank_to_one, r"ratings must follow the same tokens, .* reads the prompt otherwise before '2' than"),
    ],
)
def test_a_digit_that_cannot_be_a_rating_is_named(change: Callable[[Tokenizer], None], message: str) -> None:
    scorer, rows = changed(change), example_rows(2)
    for call in (
        lambda: instsel.selectit(scorer, rows, rating_prompts=[PROMPT]),
        lambda: rating_logprobs(part(scorer, to_examples(rows)), [PROMPT], 5),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_digits_that_are_fine_up_to_the_levels_asked_for_are_taken() -> None:
    scorer = changed(spells_three)
    logprob, status = rating_logprobs(part(scorer, to_examples(example_rows(2))), [PROMPT], 2)
    assert status.tolist() == [["ok"], ["ok"]] and np.isfinite(logprob).all()


def test_log_probabilities_are_the_whole_vocabularys(scorer: instsel.Scorer, truth: OneByOne) -> None:
    rows = [*example_rows(4), {"instruction": "the " * 400, "input": "", "output": "a"}]
    examples = to_examples(rows)
    logprob, status = rating_logprobs(part(scorer, examples), [PROMPT, RATING_PROMPT[-40:]], 6)
    assert logprob.shape == (5, 2, 6)
    assert status.tolist() == [["ok", "ok"]] * 4 + [["too_long", "too_long"]]
    assert np.isnan(logprob[4]).all()
    for i, (text, _) in enumerate(rating_requests(part(scorer, examples[:4]), [PROMPT], 6)[::6]):
        chances = truth.next_token(str(text))
        want = [chances[truth.tokenizer.convert_tokens_to_ids(digit)] for digit in "123456"]
        np.testing.assert_allclose(np.exp(logprob[i, 0]), want, rtol=1e-4)
        assert sum(want) < 0.9, "the control: the digits are not all there is"
    short = rating_logprobs(part(scorer, examples[:1], max_length=20), [PROMPT], 6)[1]
    assert short.tolist() == [["too_long"]]


def test_what_is_far_from_likely_still_has_a_share() -> None:
    far = np.array([[-900.0, -900.0 + np.log(3)], [-2.0, -2.0]])
    np.testing.assert_allclose(shares(far), [[0.25, 0.75], [0.5, 0.5]])
    np.testing.assert_allclose(expected_rating(far), [1.75, 1.5])
    assert np.isnan(expected_rating(np.full((1, 6), np.nan))).all()
