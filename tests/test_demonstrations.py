"""Demonstrations cut from their left: no more than needed, and only where asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from one_by_one import OneByOne
from slices import slice_of
from tiny_model import CONTEXT

import instsel
from instsel.methods.demonstrations import cut_to_fit
from instsel.methods.parameters import Parameters
from instsel.records import Example, to_examples
from instsel.records.unread_keys import UnreadKeys

SHORT = Example("say the king", "", "the king")
MIDDLING = Example("name every thing " * 4, "in a theory " * 4, "a thing, the king, " * 6)
LONG = Example("say", "in the thing " * 10, "the answer is a long one, " * 14)


def text(example: Example) -> str:
    return "\n".join([example.instruction, *([example.input] if example.input.strip() else []), example.response])


def cut(scorer: instsel.Scorer, pairs: list[Any], max_length: int | None = None) -> list[Example | None]:
    return cut_to_fit(slice_of(scorer, [], parameters=Parameters(max_length=max_length)), pairs)


def test_just_enough_is_cut_from_the_left(scorer: instsel.Scorer, truth: OneByOne) -> None:
    uncut = truth.length(text(MIDDLING) + text(SHORT))
    for limit in range(truth.length(text(SHORT)) + 12, uncut, 7):
        (shorter,) = cut(scorer, [(MIDDLING, SHORT)], limit)
        assert shorter is not None
        whole = MIDDLING.instruction + MIDDLING.input + MIDDLING.response
        rest = shorter.instruction + shorter.input + shorter.response
        assert whole.endswith(rest)
        assert len(shorter.response) == len(MIDDLING.response) or not shorter.instruction + shorter.input
        assert truth.length(text(shorter) + text(SHORT)) <= limit
        # With one more character it would not fit; two where the characters are one token.
        removed = len(whole) - len(rest)
        more = [_with_removed(MIDDLING, removed - extra) for extra in (1, 2, 3, 4, 5, 6) if removed >= extra]
        assert any(truth.length(text(one) + text(SHORT)) > limit for one in more)


def _with_removed(example: Example, count: int) -> Example:
    parts = []
    for part in (example.instruction, example.input, example.response):
        parts.append(part[count:])
        count = max(0, count - len(part))
    return replace(example, instruction=parts[0], input=parts[1], response=parts[2])


def test_what_fits_is_left_alone_and_what_cannot_fit_too(scorer: instsel.Scorer) -> None:
    pairs = [(SHORT, SHORT), (SHORT, LONG), (MIDDLING, SHORT), (LONG, SHORT)]
    shorter = cut(scorer, pairs)
    assert [one is None for one in shorter] == [True, True, True, False], "the longest example leaves no room"
    assert cut(scorer, [], 100) == []


def test_earlier_turns_go_first(scorer: instsel.Scorer, truth: OneByOne) -> None:
    talkative = replace(MIDDLING, history=(("user", "hello " * 20), ("assistant", "yes")))
    limit = truth.length(text(MIDDLING) + text(SHORT))
    assert cut(scorer, [(talkative, SHORT)], limit) == [MIDDLING]


def test_only_where_asked_for_and_the_row_says_so(scorer: instsel.Scorer, truth: OneByOne) -> None:
    examples = [SHORT, LONG, MIDDLING]
    probes = np.array([[2], [0], [0]])
    options = {"probes": probes, "similarity": np.zeros((3, 1))}
    assert truth.length(text(LONG)) > CONTEXT
    without = instsel.wici(scorer, examples, **options)  # type: ignore[arg-type]
    assert without.status.tolist() == ["ok", "too_long", "ok"]
    assert not without.demonstration_cut.any()
    found = instsel.wici(scorer, examples, cut_demonstration=True, **options)  # type: ignore[arg-type]
    assert found.demonstration_cut.tolist() == [[False], [True], [False]]
    assert found.status.tolist() == ["ok", "ok", "ok"]
    np.testing.assert_allclose(found.score[[0, 2]], without.score[[0, 2]], rtol=1e-5)
    assert np.isnan(found.ifd[1]), "its own answer is never cut"
    (shorter,) = cut(scorer, [(LONG, SHORT)])
    assert shorter is not None
    ratio = truth.perplexity(text(shorter) + SHORT.instruction + "\n", SHORT.response) / truth.perplexity(
        "", SHORT.response
    )
    assert found.one_shot_ifd[1, 0] == pytest.approx(ratio, rel=1e-4)


def test_of_calls_no_part_is_taken_and_of_weighted_turns_it_is(scorer: instsel.Scorer) -> None:
    turns = [{"role": "user", "content": "say it " * 40}, {"role": "assistant", "content": "the end", "weight": 1}]
    calls = [{"name": "f", "arguments": {}}]
    weighted, calling = (
        to_examples([{"messages": [turns[0], {**turns[1], **more}]}], unread=UnreadKeys())[0]
        for more in ({}, {"tool_calls": calls})
    )
    found = cut(scorer, [(weighted, Example("a", "", "b")), (calling, Example("a", "", "b"))], 100)
    assert found[1] is None and found[0] is not None and found[0].chat is None and found[0].response == "the end"
