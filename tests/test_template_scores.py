"""What each public template's conversations score, whichever turns and with or without reasoning, is one plain forward.

Every score of a conversation is compared with the mean over its scored spans in transformers' own ids of the whole of
it, `apply_chat_template(..., tokenize=True)`.
"""

from __future__ import annotations

import functools
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from test_public_templates import (
    ANSWER,
    ASK,
    CALLED,
    LONG,
    ROWS,
    TEMPLATES,
    TOOLS,
    model,
    pytestmark,
    rendered,
    tokenizer_with,
)
from tiny_model import tiny_model_folder

import instsel
from instsel.prompts import prompt_and_answer
from instsel.prompts.chat_messages import ChatSettings, TemplateRefusalError
from instsel.prompts.scored_turns import WHICH, scored_turns
from instsel.prompts.templates import turn_prompts
from instsel.records import to_examples

__all__ = ["model", "pytestmark"]

TURNS: list[dict[str, Any]] = [
    ASK, {**ANSWER, "content": " it is 3 \n", "weight": 0},
    {"role": "user", "content": "sure?"}, {**ANSWER, "content": "yes\n\nit  is"},
]  # fmt: skip
POOL: dict[str, dict[str, Any]] = {
    **ROWS,
    "blanks": {"messages": TURNS},
    "long": LONG,
    **{f"called, {kind}": {"messages": messages, "tools": TOOLS} for kind, messages in CALLED.items()},
    "a text before a block": {"messages": [*TURNS[:2], ASK, {**ANSWER, "content": "<think>so</think>it is 3"}]},
}
SCORED = list(itertools.product(WHICH, ("keep", "drop", "only")))
THINKING = "enable_thinking"  # a switch that some templates have
ATOL = 1e-5  # nats a token


def pairs_of(
    row: dict[str, Any], tokenizer: Any, which: str, reasoning: str, told: dict[str, Any]
) -> list[tuple[str, str]] | None:
    """The scored turns one by one; None where the template refuses the row."""
    [example] = to_examples([row])
    settings = ChatSettings(reasoning, told)
    try:
        turns = [*scored_turns(example, which), example]
        return [prompt_and_answer("chat", one, tokenizer=tokenizer, settings=settings) for one in turns][:-1]
    except TemplateRefusalError:
        return None


@pytest.mark.long
@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_together_are_the_turns_one_by_one(name: str) -> None:
    tokenizer = tokenizer_with(name)
    for kind, row in POOL.items():
        for reasoning in ("keep", "drop", "only"):
            want = pairs_of(row, tokenizer, "all", reasoning, {})
            if want is not None:
                turns = scored_turns(to_examples([row])[0], "all")
                found = turn_prompts("chat", turns, tokenizer=tokenizer, settings=ChatSettings(reasoning))
                assert found == want, kind


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_score_is_one_plain_forward(name: str, model: Any) -> None:
    tokenizer = tokenizer_with(name)
    scorer = instsel.Scorer(
        tiny_model_folder(), tokenizer=tokenizer, device="cpu", dtype="float32", context_length=8192
    )
    largest, compared = 0.0, 0

    @functools.cache
    def plain_forward(kind: str, thinking: bool | None) -> tuple[str, list[tuple[int, int]], np.ndarray]:
        """The text, its tokens' places in it, and each token's log-probability."""
        row, told = POOL[kind], {} if thinking is None else {THINKING: thinking}
        messages = row["messages"]
        try:
            text = rendered(tokenizer, row, messages, **told)
        except TypeError:  # its calls take their arguments as text
            for one in ('{"a": 1}', '{"a": 22}'):
                messages = json.loads(json.dumps(messages).replace(one, json.dumps(one)))
            text = rendered(tokenizer, row, messages, **told)
        ids = tokenizer.apply_chat_template(messages, tools=row.get("tools"), return_dict=False, **told)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert encoded["input_ids"] == ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        each = logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()
        return text, encoded["offset_mapping"], np.concatenate([[0.0], each])

    switched = [("all", "keep", on) for on in (True, False)] if THINKING in tokenizer.chat_template else []
    for which, reasoning, thinking in [*((*one, None) for one in SCORED), *switched]:
        told = {} if thinking is None else {THINKING: thinking}
        pairs = {kind: pairs_of(row, tokenizer, which, reasoning, told) for kind, row in POOL.items()}
        taken = {kind: found for kind, found in pairs.items() if found is not None}
        asked = {"score_turns": which, "reasoning": reasoning, "chat_template_kwargs": told}
        result = instsel.perplexity(scorer, [POOL[kind] for kind in taken], template="chat", **asked)
        for place, (kind, found) in enumerate(taken.items()):
            if not any(answer for _, answer in found):
                assert result.status[place] == "empty_target", kind
                continue
            text, places, each = plain_forward(kind, thinking)
            spans = [(len(context), len(context + answer)) for context, answer in found if answer]
            assert all(text.startswith(context + answer) for context, answer in found), kind
            tokens = [i for i, (low, high) in enumerate(places) if any(high > a and low < b for a, b in spans)]
            if result.status[place] == "empty_target":  # of turns that are scored one holds no reasoning
                assert reasoning == "only" and len(spans) < len(found), kind
                continue
            assert result.status[place] == "ok" and result.num_tokens[place] == len(tokens), kind
            largest = max(largest, abs(result.mean_logprob[place] - each[tokens].mean()))
            compared += 1
    print(f"{name}: {compared} scores, the largest difference {largest:.1e} nats a token")
    assert compared >= 30 and largest <= ATOL
