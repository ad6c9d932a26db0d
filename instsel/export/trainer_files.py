"""What each trainer reads: the rows of its file, and the file that tells it how."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instsel.export.conversations import Conversation, Message, as_templates_take_it, read_conversations
from instsel.export.written_files import check_writable, write_files
from instsel.records.tool_calls import calls_of
from instsel.records.unread_keys import UnreadKeys, holds
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


TRAINERS: Mapping[str, Callable[[Conversation], Row]] = {
    "llama-factory": _llama_factory,
    "trl": _trl,
    "axolotl": _messages,
    "alpaca": _alpaca,
    "messages": _messages,
}
_LISTED = ("llama-factory", "alpaca")  # one JSON list; the others read a line at a time
_IN_TURN = ("llama-factory", "alpaca")  # their exchanges are pairs of a user's and an assistant's turn
_BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"  # as its own converter of OpenAI's files joins them
_BY_TEMPLATE = ("trl", "axolotl", "llama-factory")  # they give tools and calls to a template
_ANSWERS = ("assistant", "function_call")
_ONE_TURN = ("llama-factory", "axolotl", "alpaca", "messages")  # of a preference pair's answers


def export(
    rows: object,
    to: str,
    output: Path | str,
    *,
    name: str = "instsel",
    columns: Mapping[str, str] | None = None,
    best: str | None = "best",
    overwrite: bool = False,
) -> list[Path]:
    """Write rows as the files that a trainer loads as they are; gives their paths.

    rows    dicts in any known format, a `Dataset`, a table
    to      one of `TRAINERS`
    output  a folder, made if need be; a `dataset_info.json` that is there gains an entry
    name    of the data set, and of its file
    best    the column with the place of each group's answer, if rows have it

    Earlier turns and preference pairs are kept whole, with all keys of their turns, and tools, weight and other columns
    that go with them, tools and calls as chat templates take them ("messages" leaves them as they are); a warning names
    what "alpaca" cannot hold and what "llama-factory" does not read. Raises ValueError naming the parameter or the row:
    for an unknown trainer, a file that is there (or, to be overwritten, one that no export wrote), no rows, a row
    without an answer, and turns that the trainer would leave out.

    >>> export([{"instruction": "Add 1 and 2.", "output": "3"}], "trl", "out")  # doctest: +SKIP
    [PosixPath('out/instsel.jsonl')]
    """
    if to not in TRAINERS:
        raise ValueError(f"to: expected one of {', '.join(TRAINERS)}, got {to!r}")
    data, *beside = check_target(to, output, name, overwrite)
    conversations = read_conversations(rows, columns, best)
    _check(conversations, to)
    if to in _BY_TEMPLATE:
        conversations = [as_templates_take_it(one) for one in conversations]
    made = [TRAINERS[to](one) for one in conversations]
    listed = json.dumps(made, ensure_ascii=False, indent=1) if to in _LISTED else _lines(made)
    has_tools = any(one.columns.get("tools") for one in conversations)
    told = _told(to, data, conversations[0].rejected is not None, has_tools)
    _warn(conversations, to)
    data.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: f"{text}\n" for path, text in {data: listed, **dict.fromkeys(beside, told)}.items()})
    return [data, *beside]


def check_target(to: str, output: Path | str, name: str, overwrite: bool) -> list[Path]:
    """The files that an export would write; ValueError for a name that is none, or a file there that must stay."""
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name: expected a file's name without its ending, got {name!r}")
    files = files_of(to, output, name)
    check_writable([path for path in files if path.name != DATASET_INFO], overwrite)
    if to == "llama-factory":
        _known_data_sets(files[0])
    return files


def files_of(to: str, output: Path | str, name: str) -> list[Path]:
    """The files that an export writes: the data, and what tells the trainer how to read them."""
    data = Path(output) / f"{name}.{'json' if to in _LISTED else 'jsonl'}"
    beside = {"llama-factory": DATASET_INFO, "axolotl": f"{name}.axolotl.yaml"}
    return [data, *([data.parent / beside[to]] if to in beside else [])]


def _check(conversations: Sequence[Conversation], to: str) -> None:
    if not conversations:
        raise ValueError("rows: there are none")
    for number, one in enumerate(conversations):
        if not _has_answers(one):
            raise ValueError(f"row {number} (counting from 0) has no answer to train on")
        if reason := _refusal(one, to):
            raise ValueError(f"row {number} (counting from 0): {reason}")


def _refusal(one: Conversation, to: str) -> str:
    """Why a trainer cannot be given a row's turns; empty where it can."""
    turns = _tagged(one.turns) if to == "llama-factory" else one.turns
    roles = [turn["role"] for turn in turns]
    known = ("user", "assistant", *(("observation", "function_call") if to == "llama-factory" else ()))
    in_turn = all(role in known and (role in _ANSWERS) == bool(i % 2) for i, role in enumerate(roles))
    if to in _IN_TURN and (len(roles) % 2 or not in_turn):
        return f"{to} reads turns of user and assistant in turn, got {', '.join(roles)}"
    pair = (one.answer, one.rejected) if one.rejected is not None else ()
    if to in _ONE_TURN and any(len(turns) != 1 for turns in pair):
        return (
            f"{to} reads one turn as the chosen and one as the rejected answer, "
            f"got {' and '.join(str(len(turns)) for turns in pair)}"
        )
    return ""


def refusals(rows: Sequence[Mapping[str, Any]], to: str, columns: Mapping[str, str] | None) -> list[str]:
    """Why `export` would refuse rows; of those without an answer, which are never selected, nothing is said."""
    found = []
    for number, row in enumerate(rows):
        try:
            (one,) = read_conversations([row], columns)
        except (ValueError, TypeError):
            continue
        if _has_answers(one) and (reason := _refusal(one, to)):
            found.append(f"row {number} (counting from 0): {reason}")
    return found


def _has_answers(one: Conversation) -> bool:
    return _says(one.answer) and (one.rejected is None or _says(one.rejected))


def _says(answer: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last turn of the assistant says or calls something."""
    turns = [turn for turn in answer if turn["role"] == "assistant"]
    return bool(turns) and bool((turns[-1]["content"] or "").strip() or turns[-1].get("tool_calls"))


def _warn(conversations: Sequence[Conversation], to: str) -> None:
    """Say which keys a trainer's file cannot hold, or its reader passes over."""
    if to not in _IN_TURN:
        return
    counts: Counter[str] = Counter()
    for one in conversations:
        columns = one.columns if to == "alpaca" else {}
        turns = one.all_turns if to == "alpaca" else _tagged(one.all_turns)
        items = (item for turn in turns for item in turn.items())
        keys = (key for key, value in items if key not in ("role", "content") and holds(value))
        counts.update({*keys, *(name for name, value in columns.items() if holds(value))})
    if told := UnreadKeys(counts).summary():
        what = "left out, for which alpaca has no place" if to == "alpaca" else "kept in turns, where it is not read"
        warnings.warn(f"{to}: {what}: {told}", stacklevel=3)


def _lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def _told(to: str, data: Path, pairs: bool, has_tools: bool) -> str:
    """What tells a trainer how to read the data; nothing for those that need not be told."""
    if to == "llama-factory":
        columns = {"messages": "messages"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
        columns |= {"tools": "tools"} if has_tools else {}
        entry = {"file_name": data.name, "formatting": "sharegpt", "ranking": pairs, "columns": columns, "tags": _ROLES}
        known = _known_data_sets(data)
        return json.dumps(known | {data.stem: entry}, ensure_ascii=False, indent=2)
    if to == "axolotl":
        lines = ["rl: dpo"] if pairs else []
        lines += ["datasets:", f"  - path: {json.dumps(data.name)}", "    ds_type: json"]
        lines += [f"    type: chat_template{'.default' if pairs else ''}", "    field_messages: messages"]
        lines += ["    field_chosen: chosen", "    field_rejected: rejected"] if pairs else []
        lines += ["    message_property_mappings:", "      role: role", "      content: content"]
        return "\n".join(lines)
    return ""


def _known_data_sets(data: Path) -> dict[str, Any]:
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
