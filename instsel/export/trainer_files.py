"""What each trainer reads: the rows of its file, and the file that tells it how."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instsel.export.conversations import Conversation, read_conversations
from instsel.export.written_files import check_writable, write_files
from instsel.runs.regular_files import read_json

Row = dict[str, Any]
DATASET_INFO = "dataset_info.json"
_ROLES = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _alpaca(one: Conversation) -> Row:
    row: Row = {"instruction": one.instruction, "input": one.input}
    row |= {"output": one.response} if one.rejected is None else {"chosen": one.response, "rejected": one.rejected}
    exchanges = [text for _, text in one.earlier]
    return row | {"system": one.system, "history": [list(pair) for pair in zip(*[iter(exchanges)] * 2, strict=True)]}


def _messages(one: Conversation) -> Row:
    if one.rejected is None:
        return {"messages": [*one.prompt, _answer(one.response)]}
    return {"messages": one.prompt, "chosen": _answer(one.response), "rejected": _answer(one.rejected)}


def _trl(one: Conversation) -> Row:
    if one.rejected is None:
        return {"prompt": one.prompt, "completion": [_answer(one.response)]}
    return {"prompt": one.prompt, "chosen": [_answer(one.response)], "rejected": [_answer(one.rejected)]}


TRAINERS: Mapping[str, Callable[[Conversation], Row]] = {
    "llama-factory": _messages,
    "trl": _trl,
    "axolotl": _messages,
    "alpaca": _alpaca,
    "messages": _messages,
}
_LISTED = ("llama-factory", "alpaca")  # one JSON list; the others read a line at a time
_IN_TURN = ("llama-factory", "alpaca")  # their exchanges are pairs of a user's and an assistant's turn


def export(
    rows: Any,
    to: str,
    output: Path | str,
    *,
    name: str = "instsel",
    columns: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write rows as the files that a trainer loads as they are; gives their paths.

    rows    dicts in any known format, a `Dataset`, a table
    to      one of `TRAINERS`
    output  a folder, made if need be; a `dataset_info.json` that is there gains an entry
    name    of the data set, and of its file

    Earlier turns and preference pairs are kept whole. Raises ValueError naming the parameter or the row: for an unknown
    trainer, a file that is there (to be overwritten, one that no export wrote), no rows, a row without an answer, and
    turns that the trainer would leave out.

    >>> export([{"instruction": "Add 1 and 2.", "output": "3"}], "trl", "out")  # doctest: +SKIP
    [PosixPath('out/instsel.jsonl')]
    """
    if to not in TRAINERS:
        raise ValueError(f"to: expected one of {', '.join(TRAINERS)}, got {to!r}")
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name: expected a file's name without its ending, got {name!r}")
    conversations = read_conversations(rows, columns)
    _check(conversations, to)
    data, *beside = files_of(to, output, name)
    check_writable([path for path in (data, *beside) if path.name != DATASET_INFO], overwrite)
    made = [TRAINERS[to](one) for one in conversations]
    listed = json.dumps(made, ensure_ascii=False, indent=1) if to in _LISTED else _lines(made)
    texts = {data: listed, **dict.fromkeys(beside, _told(to, data, conversations[0].rejected is not None))}
    data.parent.mkdir(parents=True, exist_ok=True)
    write_files({path: f"{text}\n" for path, text in texts.items()})
    return [data, *beside]


def files_of(to: str, output: Path | str, name: str) -> list[Path]:
    """The files that an export writes: the data, and what tells the trainer how to read them."""
    data = Path(output) / f"{name}.{'json' if to in _LISTED else 'jsonl'}"
    beside = {"llama-factory": DATASET_INFO, "axolotl": f"{name}.axolotl.yaml"}
    return [data, *([data.parent / beside[to]] if to in beside else [])]


def _check(conversations: Sequence[Conversation], to: str) -> None:
    if not conversations:
        raise ValueError("rows: there are none")
    for number, one in enumerate(conversations):
        if not one.response.strip() or (one.rejected is not None and not one.rejected.strip()):
            raise ValueError(f"row {number} (counting from 0) has no answer to train on")
        roles = [role for role, _ in one.earlier]
        if to in _IN_TURN and roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(
                f"row {number} (counting from 0): {to} reads turns of user and assistant in turn, got "
                f"{', '.join([*roles, 'user', 'assistant'])}"
            )


def _lines(rows: Sequence[Row]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def _told(to: str, data: Path, pairs: bool) -> str:
    """What tells a trainer how to read the data; nothing for those that need not be told."""
    if to == "llama-factory":
        columns = {"messages": "messages"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
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
