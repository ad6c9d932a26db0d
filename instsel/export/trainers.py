"""Each trainer's format: the rows of its file, and the file that tells it how to read them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instsel.export.conversations import Conversation, Message
from instsel.records.tool_calls import calls_of
from instsel.runs.regular_files import read_json

Row = dict[str, Any]
DATASET_INFO = "dataset_info.json"
_ROLES = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "observation",  # named tags have no defaults there: without these a turn of a tool is unknown
    "function_tag": "function_call",
}


def _alpaca(one: Conversation) -> Row:
    *exchanges, asked, answer = [turn["content"] or "" for turn in one.turns]
    row: Row = {"instruction": asked, "input": one.input}
    rejected = one.rejected
    row |= {"output": answer} if rejected is None else {"chosen": answer, "rejected": rejected[0]["content"] or ""}
    return row | {"system": one.system, "history": [list(pair) for pair in zip(*[iter(exchanges)] * 2, strict=True)]}


def _messages(one: Conversation) -> Row:
    if one.rejected is None:
        return {"messages": [*one.asked, *one.answer], **one.columns}
    return {"messages": one.asked, "chosen": one.answer[0], "rejected": one.rejected[0], **one.columns}


def _llama_factory(one: Conversation) -> Row:
    row = _messages(one)
    for name, turns in row.items():
        if name in ("messages", "chosen", "rejected"):
            row[name] = _tagged(turns) if name == "messages" else _tagged([turns])[0]
    if row.get("tools") is not None and not isinstance(row["tools"], str):
        row["tools"] = json.dumps(row["tools"], ensure_ascii=False)  # it reads them as text
    return row


def _tagged(turns: Sequence[Message]) -> list[Message]:
    """Turns with LLaMA-Factory's own roles for calls, as JSON text, and for what tools answer, which is one turn."""
    found: list[Message] = []
    for turn in turns:
        calls = turn.get("tool_calls") if not (turn["content"] or "").strip() else None
        if turn["role"] == "tool":
            if found and found[-1]["role"] == "observation":
                found[-1]["content"] += _BETWEEN_RESULTS + turn["content"]
            else:
                found.append({**turn, "role": "observation"})
        elif calls:
            functions = [call["function"] for call in calls_of(turn, "tool_calls")]
            text = json.dumps(functions if len(functions) > 1 else functions[0], ensure_ascii=False)
            kept = {key: value for key, value in turn.items() if key != "tool_calls"}
            found.append({**kept, "role": "function_call", "content": text})
        else:
            found.append({**turn, "role": "system"} if turn["role"] == "developer" else turn)
    return found


def _trl(one: Conversation) -> Row:
    if one.rejected is None:
        return {"prompt": one.asked, "completion": list(one.answer), **one.columns}
    return {"prompt": one.asked, "chosen": list(one.answer), "rejected": list(one.rejected), **one.columns}


_BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"  # as its own converter of OpenAI's files joins them
TURNS = ("user", "assistant", "observation", "function_call")
ANSWERS = ("assistant", "function_call")


def _data_sets(data: Path, pairs: bool, has_tools: bool) -> str:
    columns = {"messages": "messages"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
    columns |= {"tools": "tools"} if has_tools else {}
    entry = {"file_name": data.name, "formatting": "sharegpt", "ranking": pairs, "columns": columns, "tags": _ROLES}
    return json.dumps(known_data_sets(data) | {data.stem: entry}, ensure_ascii=False, indent=2)


def known_data_sets(data: Path) -> dict[str, object]:
    """The entries that stay; ValueError where one of the data's name is of another file."""
    path = data.parent / DATASET_INFO
    if not os.path.lexists(path):
        return {}
    try:
        known = read_json(path)
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise ValueError(f"{path} is not a JSON file of data sets: mend it, or name another output")
    there = known.get(data.stem)
    if there is not None and (not isinstance(there, dict) or there.get("file_name") != data.name):
        raise ValueError(f"{path} has a data set {data.stem!r} of another file: give another name")
    return known


def _axolotl_configuration(data: Path, pairs: bool, has_tools: bool) -> str:
    lines = ["rl: dpo"] if pairs else []
    lines += ["datasets:", f"  - path: {json.dumps(data.name)}", "    ds_type: json"]
    lines += [f"    type: chat_template{'.default' if pairs else ''}", "    field_messages: messages"]
    lines += ["    field_chosen: chosen", "    field_rejected: rejected"] if pairs else []
    lines += ["    message_property_mappings:", "      role: role", "      content: content"]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """What is true of a trainer's file.

    row            of a conversation
    listed         whether the file is one JSON list; else it has a row a line
    turns          a conversation's turns as it has them
    in_turn        whether they are pairs of a user's and an assistant's turn
    one_turn       whether each answer of a preference pair is one turn
    by_template    whether it gives tools and calls to a chat template
    keeps_columns  whether it has a place for what goes with the turns, such as tools
    unread         what becomes of what it has no place for, where there is such
    beside         the name of the file that tells it how to read, and what that says of the data, of pairs and of tools
    """

    row: Callable[[Conversation], Row]
    listed: bool = False
    turns: Callable[[Sequence[Message]], Sequence[Message]] = tuple
    in_turn: bool = False
    one_turn: bool = True
    by_template: bool = False
    keeps_columns: bool = True
    unread: str = ""
    beside: tuple[str, Callable[[Path, bool, bool], str]] | None = None


TRAINERS: Mapping[str, Trainer] = {
    "llama-factory": Trainer(
        row=_llama_factory,
        listed=True,
        turns=_tagged,
        in_turn=True,
        by_template=True,
        unread="kept in turns, where it is not read",
        beside=(DATASET_INFO, _data_sets),
    ),
    "trl": Trainer(row=_trl, one_turn=False, by_template=True),
    "axolotl": Trainer(row=_messages, by_template=True, beside=("{name}.axolotl.yaml", _axolotl_configuration)),
    "alpaca": Trainer(
        row=_alpaca,
        listed=True,
        in_turn=True,
        keeps_columns=False,
        unread="left out, for which alpaca has no place",
    ),
    "messages": Trainer(row=_messages),
}
