"""Spans found by rendering, against the marks that a template itself puts around what the assistant writes.

The marks are a check here and no source of spans: they hold the end of the turn, and templates mark wrongly too.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import instsel
from instsel.prompts import prompt_and_answer
from instsel.prompts.scored_turns import scored_turns
from instsel.records import to_examples

MARKED = ("qwen3_training", "llama3_training", "gemma3_training", "glm4moe_training", "nemotron_3_nano_training")
ROW: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "what is 1 and 2"}, {"role": "assistant", "content": "it is 3"},
        {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "yes it is"},
    ]
}  # fmt: skip
MADE = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</end>"
    "{% endgeneration %}{% else %}{{ m.content }}</end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WRONG = MADE.replace("m.role == 'assistant'", "m.role == 'user'")  # marks what the user says


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32", context_length=8192)


def tokenizer_with(name: str) -> Any:
    if name in ("made", "wrong"):
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
        tokenizer.chat_template = MADE if name == "made" else WRONG
        return tokenizer
    if importlib.util.find_spec("trl") is None:
        pytest.skip("TRL carries the templates")
    import test_public_templates

    return test_public_templates.tokenizer_with(name)


def found(tokenizer: Any, which: str) -> list[tuple[str, str]]:
    [example] = to_examples([ROW])
    return [prompt_and_answer("chat", one, tokenizer=tokenizer) for one in scored_turns(example, which)]


def marked(tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """The template's own token ids, and the places of those that it marks, run by run."""
    told = tokenizer.apply_chat_template(ROW["messages"], return_dict=True, return_assistant_tokens_mask=True)
    places = np.flatnonzero(told["assistant_masks"])
    return told["input_ids"], [run.tolist() for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)]


@pytest.mark.parametrize("name", [*MARKED, "made"])
def test_each_answer_lies_in_a_mark_of_its_own(name: str, scorer: instsel.Scorer) -> None:
    tokenizer = tokenizer_with(name)
    pairs = found(tokenizer, "all")
    ids, runs = marked(tokenizer)
    text = tokenizer.apply_chat_template(ROW["messages"], tokenize=False)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert len(pairs) == len(runs) == 2 and len(offsets) == len(ids)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(), dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    batch = instsel.score_batch(scorer, pairs, max_length=8192)
    for (context, answer), run, mean in zip(pairs, runs, batch.mean_logprob, strict=True):
        start, end = len(context), len(context) + len(answer)
        scored = [i for i, (low, high) in enumerate(offsets) if high > start and low < end]
        assert set(scored) < set(run), "the end of the turn is marked, and not scored"
        want = np.mean([float(logits[i - 1, ids[i]]) for i in scored])
        np.testing.assert_allclose(mean, want, rtol=0, atol=1e-5)


def test_wrong_marks_change_nothing() -> None:
    assert found(tokenizer_with("wrong"), "all") == found(tokenizer_with("made"), "all")
    assert marked(tokenizer_with("wrong"))[1] != marked(tokenizer_with("made"))[1], "the control: they are other marks"
