"""Conversations with tools and reasoning, as trainers' files write them, reach a chat template as it expects them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from small_tokenizers import byte_level

from instsel.prompts import prompt_and_answer
from instsel.records import Unreadable, to_examples, to_groups

SCHEMA = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}}
TOOLS = [{"type": "function", "function": SCHEMA}]
ARGUMENTS = {"a": 1, "b": [2, None, {"é": "x"}]}
CALL = {"type": "function", "function": {"name": "add", "arguments": ARGUMENTS}}
ASK = {"role": "user", "content": "add 1 and 2"}
MESSAGES = [
    {"role": "system", "content": "be kind"},
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "it is 3"},
]
# Writes whatever it is given, so that nothing can be lost on the way to it.
TEMPLATE = (
    "{{ tools | tojson }}{% for m in messages %}[{{ m.role }}]"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_calls_at_once_are_one_turn() -> None:
    """As ms-swift's files hold them: a turn for each call, and then one for what each tool answers."""
    calls = [CALL, {**CALL, "function": {"name": "add", "arguments": {"a": 7}}}]
    turns = [{"role": "tool_call", "content": json.dumps(call["function"])} for call in calls]
    results = [{"role": "tool_response", "content": text} for text in ("3", "8")]
    context, _ = written({"messages": [*MESSAGES[:2], *turns, *results, MESSAGES[4]], "tools": TOOLS})
    tools = [{"role": "tool", "content": text} for text in ("3", "8")]
    want = [*MESSAGES[:2], {**MESSAGES[2], "tool_calls": calls}, *tools]
    assert context == tokenizer().apply_chat_template(want, tools=TOOLS, tokenize=False, add_generation_prompt=True)
    [apart] = to_examples([{"messages": [*MESSAGES[:2], turns[0], results[0], turns[1], results[1], MESSAGES[4]]}])
    assert apart.chat is not None and len(apart.chat.messages) == 7, "the control: one after the other"


def as_text(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "id": "c1", "function": {"name": "add", "arguments": json.dumps(call["function"]["arguments"])}}


def changed(place: int, **keys: Any) -> list[dict[str, Any]]:
    return [{**turn, **keys} if i == place else turn for i, turn in enumerate(MESSAGES)]


SHAREGPT = [
    {"from": "system", "value": "be kind"},
    {"from": "human", "value": "add 1 and 2"},
    {"from": "function_call", "value": json.dumps(CALL["function"])},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "it is 3"},
]
ROWS: dict[str, dict[str, Any]] = {
    "TRL": {"messages": MESSAGES, "tools": TOOLS},
    "TRL, prompt and completion": {"prompt": MESSAGES[:4], "completion": MESSAGES[4:], "tools": json.dumps(TOOLS)},
    "TRL, the calls in the completion": {"prompt": MESSAGES[:2], "completion": MESSAGES[2:], "tools": TOOLS},
    "LLaMA-Factory": {"conversations": SHAREGPT, "tools": json.dumps([SCHEMA])},
    "LLaMA-Factory, system apart": {"conversations": SHAREGPT[1:], "system": "be kind", "tools": json.dumps([SCHEMA])},
    "OpenAI": {"messages": changed(2, tool_calls=[as_text(CALL)], content=None), "tools": TOOLS},
    "OpenAI, without content": {"messages": [{k: v for k, v in turn.items() if i != 2 or k != "content"}
                                             for i, turn in enumerate(MESSAGES)], "tools": TOOLS},
    "OpenAI, before": {"messages": [
        *MESSAGES[:2], {"role": "assistant", "content": None, "function_call": as_text(CALL)["function"]},
        {"role": "function", "name": "add", "content": "3"}, MESSAGES[4]], "functions": [SCHEMA]},
    "axolotl": {"messages": [{**turn, "train": i == 4} for i, turn in enumerate(MESSAGES)], "tools": TOOLS},
    "ms-swift": {"messages": [*MESSAGES[:2], {"role": "tool_call", "content": json.dumps(CALL["function"])},
                              {"role": "tool_response", "content": "3"}, {**MESSAGES[4], "loss": True}],
                 "tools": [json.dumps(tool) for tool in TOOLS]},
    "parts": {"messages": changed(1, content=[{"type": "text", "text": "add 1 "}, {"type": "text", "text": "and 2"}]),
              "tools": TOOLS},
}  # fmt: skip


def tokenizer(template: str = TEMPLATE) -> Any:
    found = copy.deepcopy(byte_level(bos=True))
    found.chat_template = template
    return found


def written(row: dict[str, Any], read: Any = to_examples, **settings: Any) -> tuple[str, str]:
    [found] = read([row])
    return prompt_and_answer("chat", found if read is to_examples else found.examples[0], tokenizer=tokenizer())


@pytest.mark.filterwarnings("ignore:not part of the prompt")
@pytest.mark.parametrize("name", ROWS)
def test_every_trainers_rows_reach_the_template(name: str) -> None:
    context, answer = written(ROWS[name])
    want = tokenizer().apply_chat_template(MESSAGES, tools=TOOLS, tokenize=False)
    same = want.replace(json.dumps([CALL], ensure_ascii=False), "CALLS")
    found = context + answer + "\n"
    if "OpenAI" in name:  # a call's id stays with it, and a content of null is none
        found = found.replace('"id": "c1", ', "").replace("]None\n", "]\n")
    assert answer == "it is 3" and found.replace(json.dumps([CALL], ensure_ascii=False), "CALLS") == same


@pytest.mark.filterwarnings("ignore:not part of the prompt")
def test_a_call_is_an_answer_and_so_is_one_of_a_pair() -> None:
    context, answer = written({"messages": MESSAGES[:3], "tools": TOOLS})
    assert context.endswith("[assistant]") and json.loads(answer) == [CALL]
    [example] = to_examples([{"messages": MESSAGES[:3]}])
    assert json.loads(example.response) == CALL["function"]
    pair = {"prompt": MESSAGES[:2], "chosen": [MESSAGES[2]], "rejected": [MESSAGES[4]], "tools": TOOLS}
    assert written(pair, to_groups) == (context, answer)


@pytest.mark.filterwarnings("ignore:not part of the prompt")
@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_reaches_the_template_under_the_key_that_it_reads(key: str) -> None:
    context, answer = written({"messages": [ASK, {"role": "assistant", "content": "3", key: "1 and 2"}]})
    assert (context, answer) == ("null[user]add 1 and 2\n[assistant]", "<think>1 and 2</think>3")


def test_what_the_row_tells_the_template() -> None:
    row = {"messages": [ASK, MESSAGES[4]], "chat_template_kwargs": {"tone": "dry"}}
    [example] = to_examples([row, row])[:1]
    found = prompt_and_answer("chat", example, tokenizer=tokenizer("{{ tone }}" + TEMPLATE))
    assert found[0].startswith("drynull")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown role": ({"messages": [ASK, {"role": "oracle", "content": "x"}, MESSAGES[4]]}, "role 'oracle'"),
    "a tool that answers nobody": ({"messages": [ASK, MESSAGES[3], MESSAGES[4]]}, "must follow the assistant's"),
    "an answer to nobody": ({"messages": MESSAGES[4:]}, "the turn before the answer must be the user's"),
    "turns of null": ({"messages": [None, ASK, MESSAGES[4]]}, "a turn must be a mapping, got NoneType"),
    "arguments that are not JSON": (
        {"messages": [ASK, {**MESSAGES[2], "tool_calls": [{"function": {"name": "add", "arguments": "{a"}}]}]},
        "the arguments of 'add' must be JSON, got '{a'"),
    "arguments that are a list": (
        {"messages": [ASK, {**MESSAGES[2], "tool_calls": [{"name": "add", "arguments": "[1]"}]}]}, "a JSON object"),
    "a call without a name": ({"messages": [ASK, {**MESSAGES[2], "tool_calls": [{"x": 1}]}]}, "a call needs a name"),
    "a function call that is not JSON": (
        {"conversations": [SHAREGPT[1], {"from": "function_call", "value": "add(1)"}]}, "a function call must be JSON"),
    "tools that are no list": ({"messages": MESSAGES, "tools": {"name": "add"}}, "column 'tools' must hold a list"),
    "tools that are not JSON": ({"messages": MESSAGES, "tools": "add"}, "column 'tools': tools must be JSON"),
    "a tool that is none": ({"messages": MESSAGES, "tools": [1]}, "a tool must be a JSON object, got int"),
    "a tool's function that is none": (
        {"messages": MESSAGES, "tools": [{"type": "function", "function": "add"}]}, "the function of a tool must be"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}, MESSAGES[4]]},
        r"not text \(type 'image'\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_one_status_and_the_others_go_on(name: str) -> None:
    row, reason = BAD[name]
    with pytest.raises(ValueError, match=rf"row 0 \(counting from 0\): .*{reason}"):
        to_examples([row])
    good = {next(iter(row)): [ASK, MESSAGES[4]]}
    found = to_examples([row, good], on_error="status")
    assert isinstance(found[0], Unreadable) and found[1].response == "it is 3"


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a row that ends its template's text": (
        "chat", {"messages": MESSAGES, "chat_template_kwargs": {"continue_final_message": True}},
        "must not say 'continue_final_message'"),
    "a call without its answer": ("chat", {"messages": [*MESSAGES[1:3], ASK, MESSAGES[4]]}, "a call of a tool has no"),
    "a tool in a text": ("plain", {"messages": MESSAGES}, "turns of a tool, for which only a chat template"),
    "a call in a text": ("alpaca", {"messages": MESSAGES[:3]}, "the answer is a call of a tool"),
    "a call in one's own text": ("{instruction}:", {"messages": MESSAGES[:3]}, "the answer is a call of a tool"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:not part of the prompt")
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_template_has_no_place_for_is_refused(name: str) -> None:
    template, row, reason = REFUSED[name]
    with pytest.raises(ValueError, match=reason):
        prompt_and_answer(template, to_examples([row])[0], tokenizer=tokenizer())


def test_a_template_without_calls_refuses_them() -> None:
    bare = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    [example] = to_examples([{"messages": MESSAGES[:3]}])
    with pytest.raises(ValueError, match="leaves out the calls of tools in the answer"):
        prompt_and_answer("chat", example, tokenizer=tokenizer(bare))
