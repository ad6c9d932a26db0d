"""What each trainer reads: the rows of its file, and the file that tells it how."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from instsel.export.conversations import Conversation, read_conversations
from instsel.runs.durable_files import durable_file

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
_IN_TURN = ("llama-factory", "alpaca")  # their exchanges are pairs of a user's and an assistant's turn


def export(
    rows: Any,
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

    Earlier turns and preference pairs are kept whole. Raises ValueError naming the parameter or the row: for an unknown
    trainer, a file that is there, no rows, a row without an answer, and turns that the trainer would leave out.

    >>> export([{"instruction": "Add 1 and 2.", "output": "3"}], "trl", "out")  # doctest: +SKIP
    [PosixPath('out/instsel.jsonl')]
    """
    if to not in TRAINERS:
        raise ValueError(f"to: expected one of {', '.join(TRAINERS)}, got {to!r}")
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"name: expected a file's name without its ending, got {name!r}")
    conversations = read_conversations(rows, columns, best)
    _check(conversations, to)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    listed = to in ("llama-factory", "alpaca")  # one JSON list; the others read a line at a time
    data = folder / f"{name}.{'json' if listed else 'jsonl'}"
    beside = _beside(to, data, conversations[0].rejected is not None)
    taken = [path for path in (data, *beside) if path.exists() and path.name != DATASET_INFO]
    if taken and not overwrite:
        raise ValueError(f"{taken[0]} exists; name another output or overwrite it")
    made = [TRAINERS[to](one) for one in conversations]
    _write(data, json.dumps(made, ensure_ascii=False, indent=1) if listed else _lines(made))
    for path, text in beside.items():
        _write(path, text)
    return [data, *beside]


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


def _write(path: Path, text: str) -> None:
    with durable_file(path.parent, path.name) as file:
        file.write(text.encode() + b"\n")


def _beside(to: str, data: Path, pairs: bool) -> dict[Path, str]:
    """The files that tell a trainer how to read the data."""
    if to == "llama-factory":
        path = data.parent / DATASET_INFO
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        columns = {"messages": "messages"} | ({"chosen": "chosen", "rejected": "rejected"} if pairs else {})
        entry = {"file_name": data.name, "formatting": "sharegpt", "ranking": pairs, "columns": columns, "tags": _ROLES}
        return {path: json.dumps(known | {data.stem: entry}, ensure_ascii=False, indent=2)}
    if to == "axolotl":
        lines = ["rl: dpo"] if pairs else []
        lines += ["datasets:", f"  - path: {json.dumps(data.name)}", "    ds_type: json"]
        lines += [f"    type: chat_template{'.default' if pairs else ''}", "    field_messages: messages"]
        lines += ["    field_chosen: chosen", "    field_rejected: rejected"] if pairs else []
        lines += ["    message_property_mappings:", "      role: role", "      content: content"]
        return {data.parent / f"{data.stem}.axolotl.yaml": "\n".join(lines)}
    return {}
