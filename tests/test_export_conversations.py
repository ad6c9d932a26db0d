"""Tools, calls and reasoning come back out of `export` as each trainer reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from row_tables import loaded
from tiny_model import tiny_model_folder
from transformers import AutoTokenizer

from instsel.export import export
from instsel.records import to_examples

pytestmark = pytest.mark.filterwarnings("ignore:not part of the prompt", "ignore:llama-factory")
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}}]
CALLS = [
    {"id": f"c{i}", "type": "function", "function": {"name": "add", "arguments": {"a": [i, None, {"é": 1.5}]}}}
    for i in range(2)
]
TURNS = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "add"},
    {"role": "assistant", "content": "", "reasoning_content": "two calls", "tool_calls": CALLS},
    {"role": "tool", "content": "3", "tool_call_id": "c0"},
    {"role": "tool", "content": "4", "tool_call_id": "c1"},
    {"role": "assistant", "content": "3 and 4", "reasoning_content": "they say", "weight": 1},
]
POOL: list[dict[str, Any]] = [
    {"messages": TURNS, "tools": TOOLS, "chat_template_kwargs": {"x": True}},
    {"messages": TURNS[:3], "tools": TOOLS},
    {"messages": [{"role": "developer", "content": "be brief"}, *TURNS[1:2], {"role": "assistant", "content": "no"}]},
]
SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "add"},
        {"from": "function_call", "value": json.dumps([one["function"] for one in CALLS])},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "3 and 4"},
    ],
    "tools": json.dumps(TOOLS),
}

AT_ONCE = {  # ms-swift's files hold a turn for each call
    "messages": [
        TURNS[1], *({"role": "tool_call", "content": json.dumps(one["function"])} for one in CALLS),
        *({"role": "tool_response", "content": text} for text in "34"), {"role": "assistant", "content": "3 and 4"},
    ],
    "tools": TOOLS,
}  # fmt: skip


def turns_in(row: dict[str, Any]) -> list[dict[str, Any]]:
    return row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]


@pytest.mark.parametrize("to", ["trl", "axolotl", "messages"])
def test_they_come_back_byte_for_byte(to: str, tmp_path: Path) -> None:
    rows = loaded(export(POOL, to, tmp_path)[0])
    assert [json.dumps(turns_in(row)) for row in rows] == [json.dumps(row["messages"]) for row in POOL]
    for key in ("tools", "chat_template_kwargs"):
        assert [row.get(key) for row in rows] == [row.get(key) for row in POOL]
    assert [one.chat for one in to_examples(rows)] == [one.chat for one in to_examples(POOL)]


@pytest.mark.parametrize("row", [*POOL, SHAREGPT, AT_ONCE], ids=["results", "calls", "developer", "sharegpt", "swift"])
@pytest.mark.parametrize("to", ["trl", "axolotl", "messages", "llama-factory"])
def test_an_export_is_read_as_what_it_was(to: str, row: dict[str, Any], tmp_path: Path) -> None:
    [one], [other] = to_examples([row]), to_examples(loaded(export([row], to, tmp_path)[0]))
    assert (one.instruction, one.response) == (other.instruction, other.response)

    def plain(example: Any) -> list[Any]:
        found = []
        for message in example.chat.messages if example.chat else ():
            calls = [call["function"] for call in message.get("tool_calls", ())]
            role = "system" if message["role"] == "developer" else message["role"]
            result = (role, message.get("content") or "", message.get("reasoning_content"), calls)
            if (
                to == "llama-factory" and found and role == found[-1][0] == "tool"
            ):  # what tools answer is one turn there
                result = (role, found.pop()[1] + "\n</tool_response>\n<tool_response>\n" + result[1], None, [])
            found.append(result)
        return found

    assert not one.chat or not other.chat or plain(one) == plain(other)
    assert (one.chat and one.chat.tools) == (other.chat and other.chat.tools)


def test_llama_factory_reads_calls_and_results(tmp_path: Path) -> None:
    """Its converter takes turns of a user or of an observation, and of the assistant or a function call, in turn."""
    pool = [*POOL, {"messages": SHAREGPT["conversations"], "tools": SHAREGPT["tools"]}]
    data, info = export(pool, "llama-factory", tmp_path)
    entry = json.loads(info.read_text())["instsel"]
    assert entry["formatting"] == "sharegpt" and entry["columns"]["tools"] == "tools"
    tags = entry["tags"].get  # once an entry names any, those that it does not name are None
    for row, own in zip(loaded(data), pool, strict=True):
        turns = row["messages"][row["messages"][0]["role"] == "system" :]
        odd, even = (tags("user_tag"), tags("observation_tag")), (tags("assistant_tag"), tags("function_tag"))
        assert all(turn["role"] in (even if i % 2 else odd) for i, turn in enumerate(turns)) and len(turns) % 2 == 0
        told = [json.loads(turn["content"]) for turn in turns if turn["role"] == tags("function_tag")]
        assert told == [[one["function"] for one in CALLS]] * bool(own.get("tools"))
        assert isinstance(row.get("tools", ""), str)


def test_trl_writes_the_same_text(tmp_path: Path) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder())
    tokenizer.chat_template = (
        "{{ tools | tojson }}{{ x }}{% for m in messages %}[{{ m.role }}]{{ m.reasoning_content }}"
        "{{ m.tool_calls | tojson if m.tool_calls }}{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    for row, own in zip(loaded(export(POOL, "trl", tmp_path)[0]), POOL, strict=True):
        assert data_utils.is_conversational(row)
        keys = {key: row[key] for key in ("prompt", "completion", "chat_template_kwargs") if key in row}
        found = data_utils.apply_chat_template(keys, tokenizer, tools=row.get("tools"))
        want = tokenizer.apply_chat_template(
            own["messages"], tools=own.get("tools"), tokenize=False, **own.get("chat_template_kwargs", {})
        )
        assert found["prompt"] + found["completion"] == want
