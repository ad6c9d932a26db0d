"""Twenty public chat templates, as TRL carries them: what is scored is what transformers' own rendering holds."""

from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_model import tiny_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import instsel
from instsel.prompts import prompt_and_answer
from instsel.prompts.chat_messages import ChatSettings, TemplateRefusalError
from instsel.prompts.scored_turns import scored_turns
from instsel.records import to_examples

TEMPLATES = (
    "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "gemma4", "gemma4_v5", "glm4moe", "gptoss",
    "lfm2_2_5", "llama3", "llama3_1", "nemotron_3_nano", "nemotron_3_super", "phi3", "qwen2_5", "qwen3",
    "qwen3_5_think", "qwen3_6", "qwen3_instruct_2507",
)  # fmt: skip
FOLDER = importlib.util.find_spec("trl")
pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="TRL carries the templates"),
    pytest.mark.filterwarnings("ignore:not part of the prompt"),
]

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer", "description": "one"}}, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "add_up", "description": "Add.", "parameters": PARAMETERS}}]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "add_up", "arguments": {"a": 1}}}
ASK = {"role": "user", "content": "what is 1 and 2"}
ANSWER = {"role": "assistant", "content": "it is 3"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "3", "name": "add_up", "tool_call_id": "abcdefghi"}
WHY = "count one two three"
ROWS: dict[str, dict[str, Any]] = {
    "a single turn": {"messages": [ASK, ANSWER]},
    "many turns": {"messages": [ASK, ANSWER, {"role": "user", "content": "sure?"}, {**ANSWER, "content": "yes"}]},
    "reasoning apart": {"messages": [ASK, {**ANSWER, "reasoning_content": WHY}]},
    "reasoning in the text": {"messages": [ASK, {**ANSWER, "content": f"<think>{WHY}</think>it is 3"}]},
    "a call": {"messages": [ASK, CALLING], "tools": TOOLS},
    "a call after reasoning": {"messages": [ASK, {**CALLING, "reasoning_content": WHY}], "tools": TOOLS},
    "after a call": {"messages": [ASK, CALLING, RESULT, ANSWER], "tools": TOOLS},
}
# Why some templates take some rows not at all; what is not named here must be scored.
REASONING = ("reasoning apart", "reasoning in the text", "a call after reasoning")
REFUSED = {
    "leaves out the answer's reasoning": REASONING,
    "leaves out the calls of tools": ("a call", "a call after reasoning"),
    "refuses the turns": ("after a call", "a call"),
}


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32", context_length=8192)


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder(), dtype=torch.float32)


def tokenizer_with(template: str) -> Any:
    assert FOLDER is not None and FOLDER.origin is not None
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = (Path(FOLDER.origin).parent / f"chat_templates/{template}.jinja").read_text("utf-8")
    return tokenizer


def split(tokenizer: Any, row: dict[str, Any], reasoning: str = "keep") -> tuple[str, str] | str:
    [example] = to_examples([row], on_error="status")
    try:
        return prompt_and_answer("chat", example, tokenizer=tokenizer, settings=ChatSettings(reasoning))
    except TemplateRefusalError as error:
        return str(error)


def rendered(tokenizer: Any, row: dict[str, Any], messages: list[Any], **more: Any) -> str:
    found: str = tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False, **more)
    return found


def reference(model: Any, tokenizer: Any, text: str, start: int, end: int) -> float:
    """The mean log-probability of a text's tokens from one character to another, by one plain forward of all of it."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    with torch.no_grad():
        logits = model(torch.tensor([encoded["input_ids"]])).logits[0].double().log_softmax(-1)
    scored = [i for i, (low, high) in enumerate(encoded["offset_mapping"]) if high > start and low < end]
    return float(np.mean([float(logits[i - 1, encoded["input_ids"][i]]) for i in scored]))


@pytest.mark.long
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_scored_is_what_transformers_writes(name: str, scorer: instsel.Scorer, model: Any) -> None:
    tokenizer = tokenizer_with(name)
    taken = 0
    for kind, row in ROWS.items():
        found = split(tokenizer, row)
        if isinstance(found, str):
            reason = next(reason for reason in REFUSED if reason in found)
            assert kind in REFUSED[reason], (kind, found)
            continue
        taken += 1
        context, answer = found
        try:
            whole = rendered(tokenizer, row, row["messages"])
        except TypeError:  # its calls take their arguments as text
            row = json.loads(json.dumps(row).replace('{"a": 1}', json.dumps('{"a": 1}')))
            whole = rendered(tokenizer, row, row["messages"])
        assert whole.startswith(context + answer)
        prompt = rendered(tokenizer, row, row["messages"][:-1], add_generation_prompt=True)
        if WHY in whole:  # what the model writes after the generation prompt, whoever opened the block
            common = next(i for i, pair in enumerate(zip(prompt + "\0", whole, strict=False)) if pair[0] != pair[1])
            assert context == whole[:common] and WHY in answer
        assert "it is 3" not in whole[len(context + answer) :] and "add_up" not in whole[len(context + answer) :]
        batch = instsel.score_batch(scorer, [found], max_length=8192)
        want = reference(model, tokenizer, whole, len(context), len(context) + len(answer))
        np.testing.assert_allclose(batch.mean_logprob[0], want, rtol=0, atol=1e-5, err_msg=f"{name}: {kind}")
    assert taken >= 2


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_reasoning_and_the_rest_are_the_answer(name: str) -> None:
    tokenizer = tokenizer_with(name)
    for kind in REASONING:
        keep, drop, only = (split(tokenizer, ROWS[kind], word) for word in ("keep", "drop", "only"))
        if isinstance(keep, str):
            assert isinstance(only, str)  # there is nothing of it to score
            assert isinstance(drop, str) or WHY not in "".join(drop)
            continue
        assert not isinstance(drop, str) and not isinstance(only, str)
        assert keep[0] + keep[1] == drop[0] + drop[1] and keep[0] == only[0] and keep[1] == only[1] + drop[1]
        assert WHY in only[1] and WHY not in drop[1] and ("it is 3" in drop[1] or "add_up" in drop[1])


WITHOUT_CALLS = ("cohere2", "deepseek_r1_distill", "gemma", "gemma3", "llama3", "phi3")
LONG = {
    "messages": [
        {"role": "system", "content": "be kind"}, ASK, {**CALLING, "reasoning_content": "why one"}, RESULT,
        {**ANSWER, "reasoning_content": "why two"}, {"role": "user", "content": "sure?"},
        {**ANSWER, "content": "yes it is", "reasoning_content": "why three"},
    ],
    "tools": TOOLS,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_turn_stands_in_one_rendering(name: str, scorer: instsel.Scorer, model: Any) -> None:
    """The answers of a conversation with a call and with reasoning, each a span of transformers' own text of it."""
    tokenizer = tokenizer_with(name)
    for row in (LONG, {"messages": [ASK, ANSWER, {"role": "user", "content": "sure?"}, {**ANSWER, "content": "yes"}]}):
        [example] = to_examples([row])
        try:
            found = [
                prompt_and_answer("chat", one, tokenizer=tokenizer, settings=ChatSettings("drop"))
                for one in scored_turns(example, "all")
            ]
        except TemplateRefusalError as error:
            assert row is LONG and any(reason in str(error) for reason in REFUSED) and name in WITHOUT_CALLS
            continue
        try:
            whole = rendered(tokenizer, row, row["messages"])
        except TypeError:
            whole = rendered(
                tokenizer, row, json.loads(json.dumps(row["messages"]).replace('{"a": 1}', r'"{\"a\": 1}"'))
            )
        assert all(whole.startswith(context + answer) and "sure?" not in answer for context, answer in found)
        batch = instsel.score_batch(scorer, found, max_length=8192)
        want = [reference(model, tokenizer, whole, len(context), len(context + answer)) for context, answer in found]
        np.testing.assert_allclose(batch.mean_logprob, want, rtol=0, atol=1e-5)
        assert ["why" in answer for _, answer in found] == [False] * len(found), "dropped, or taken out by the template"


OBSERVED = {**RESULT, "content": "rain at noon"}
AGAIN = {**CALLING, "tool_calls": [{**CALL, "function": {"name": "add_up", "arguments": {"a": 22}}}]}
CALLED: dict[str, list[Any]] = {  # conversations whose calls are followed by what tools answer
    "one": [ASK, CALLING, OBSERVED, ANSWER],
    "two": [ASK, CALLING, OBSERVED, AGAIN, OBSERVED, ANSWER],
    "with reasoning": [
        ASK, {**CALLING, "reasoning_content": "why one"}, OBSERVED, {**AGAIN, "reasoning_content": "why two"}
    ],
}  # fmt: skip
ENDS = ("<|call|>", "<|observation|>", "<|tool_response>", "<|im_end|>", "<|eot_id|>", "<turn|>")  # of a turn
WRITTEN_WITH_CALLS = tuple(name for name in TEMPLATES if name not in WITHOUT_CALLS)
MORE = (
    "gptoss_training",
    "glm4moe_training",
    "gemma4_v4",
    "diffusion_gemma",
    "muse_glimmer",
    "nemotron_3_nano_training",
)


@pytest.mark.parametrize("name", [*WRITTEN_WITH_CALLS, *MORE])
def test_a_call_is_scored_and_not_what_a_tool_answers(name: str) -> None:
    """Some templates write it into the turn that calls, and some refuse it after a turn that does not."""
    tokenizer = tokenizer_with(name)
    for kind, messages in CALLED.items():
        row = {"messages": messages, "tools": TOOLS}
        [example] = to_examples([row])
        asked = ChatSettings("drop" if kind == "with reasoning" and name in DROPPED else "keep")
        turns = scored_turns(example, "all")
        if name == "deepseekv3" and kind != "one":  # does not end what a tool answers before another call
            with pytest.raises(TemplateRefusalError, match="so that it cannot be split off"):
                prompt_and_answer("chat", turns[1], tokenizer=tokenizer, settings=asked)
            continue
        found = [prompt_and_answer("chat", one, tokenizer=tokenizer, settings=asked) for one in turns]
        calls = [answer for _, answer in found if "add_up" in answer]
        assert len(calls) == sum("tool_calls" in message for message in messages), kind
        assert not any("rain" in answer or answer.endswith(ENDS) for _, answer in found), found
        places = [(len(context), len(context + answer)) for context, answer in found]
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places)), "no token is scored twice"
        assert found[-1][0].startswith(found[0][0] + found[0][1])


@pytest.mark.parametrize("block", ["<think></think>", "<think>\n\n</think>\n\n"])
def test_an_empty_block_that_a_row_holds_is_the_templates_own(block: str) -> None:
    """A template that writes one by itself writes the same text for a row that holds it."""
    row = {"messages": [ASK, {**ANSWER, "content": block + "it is 3"}]}
    for name in ("qwen3", "qwen3_5_think", "qwen3_6", "glm4moe"):
        tokenizer = tokenizer_with(name)
        assert rendered(tokenizer, row, row["messages"]) == rendered(tokenizer, row, [ASK, ANSWER])
        assert split(tokenizer, row) == split(tokenizer, {"messages": [ASK, ANSWER]})
    assert split(tokenizer_with("llama3"), row)[1] == block + "it is 3", "the control: it writes what it is given"


DROPPED = ("deepseekv3", "llama3_1", "qwen2_5", "qwen3_instruct_2507")  # templates that write no reasoning apart
