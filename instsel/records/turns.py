"""A cell as text, or as the turns of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from instsel.records.formats import listed, shortened
from instsel.records.json_rows import DECODER
from instsel.records.json_types import JsonObject, Message, Row
from instsel.records.row_errors import RowError
from instsel.records.row_sources import plain
from instsel.records.tool_calls import call_of_text, calls_of
from instsel.records.unread_keys import holds, turn_keys

__all__ = ["ROLES", "RowError", "Turn", "is_turns", "one_by_one", "said", "text_of", "turns_of"]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "tool_response": "tool", "function_response": "tool",
    "function_call": "assistant", "tool_call": "assistant",
}  # fmt: skip
CALLING = ("function_call", "tool_call")  # roles whose text is a call, or a list of them, in JSON


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn: its role ("system", "user", "assistant" or "tool"), its text, and the message that templates are given.

    The message is as transformers' `apply_chat_template` takes it: role (also "developer"), content, `tool_calls` with
    arguments as dicts, and whatever else the turn holds.
    """

    role: str
    text: str
    message: Message

    @property
    def is_plain(self) -> bool:
        """Whether role and text are all of it."""
        return len(self.message) == 2 and self.message["role"] == self.role != "tool"


def said(role: str, text: str) -> Turn:
    """A turn that is nothing but a text."""
    return Turn(role, text, {"role": role, "content": text})


def text_of(value: object, column: str) -> str:
    """A cell as text: null and NaN are "", a number is written out, a list of text parts is joined."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float("inf"):
        try:
            return str(value)
        except ValueError:  # Python bounds the digits that it writes
            raise RowError(f"column {column!r} holds a number of thousands of digits") from None
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "".join(_part_text(part, column) for part in value)
    raise RowError(f"column {column!r} must hold text, got {type(value).__name__}")


def _part_text(part: Row, column: str) -> str:
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise RowError(f"column {column!r} holds content that is not text (type {shortened(str(part.get('type')))})")
    return str(part["text"])


def is_turns(value: object) -> bool:
    """Whether a cell holds turns: a list of them, one alone, or a dict of lists; text may be a list, of parts."""
    held = [value] if isinstance(value, Mapping) else value
    if not isinstance(held, (list, tuple)):
        return False
    return any(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in held)


def turns_of(value: object, column: str) -> list[Turn]:
    """The turns of a cell, of role/content or from/value: a list, one alone, or a dict of their lists."""
    if isinstance(value, Mapping):
        value = one_by_one(value, column)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise RowError(f"column {column!r} must hold a list of turns, got {type(value).__name__}")
    return [_turn_of(turn, column) for turn in with_calls_together(value)]


def with_calls_together(turns: Iterable[Row]) -> list[Row]:
    """Turns, those that are calls in JSON and follow each other being one: calls made at once, as ms-swift has them."""
    found: list[Row] = []
    for turn in turns:
        last = found[-1] if found else None
        if _is_call(turn) and _is_call(last):
            calls = [one for each in (last, turn) for one in _calls_in(each[turn_keys(each)[1]])]
            found[-1] = {**last, turn_keys(last)[1]: json.dumps(calls, ensure_ascii=False)}
        else:
            found.append(turn)
    return found


def _is_call(turn: object) -> TypeGuard[Row]:
    """Whether a turn is a call, or a list of them, in JSON, and nothing beside that."""
    if not isinstance(turn, Mapping) or str(turn.get(turn_keys(turn)[0])).lower() not in CALLING:
        return False
    return set(turn) == set(turn_keys(turn)) and bool(_calls_in(turn[turn_keys(turn)[1]]))


def _calls_in(text: object) -> list[object]:
    try:
        found = DECODER.decode(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else [found] if isinstance(found, Mapping) else []


def _turn_of(turn: object, column: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise RowError(f"column {column!r}: a turn must be a mapping, got {type(turn).__name__}")
    role_key, text_key = turn_keys(turn)
    given = turn.get(role_key)
    calls = calls_of(turn, column)
    if not isinstance(given, str) or (text_key not in turn and not calls):
        raise RowError(f"column {column!r}: a turn needs role and content, or from and value; got {_keys(turn)}")
    if given.lower() not in ROLES:
        raise RowError(f"column {column!r}: role {shortened(given)} is not one of {', '.join(ROLES)}")
    role, text = ROLES[given.lower()], text_of(turn.get(text_key), column)
    if given.lower() in CALLING and not calls:
        calls, text = call_of_text(text, column), ""
    beside = (role_key, text_key, "tool_calls", "function_call")
    content = None if calls and turn.get(text_key) is None else text
    message: JsonObject = {"role": "developer" if given.lower() == "developer" else role, "content": content}
    message |= {str(key): plain(value) for key, value in turn.items() if key not in beside and holds(value)}
    if calls:
        message["tool_calls"] = calls
    return Turn(role, text, message)


def one_by_one(value: Row, column: str) -> list[object]:
    """The turns of a dict of lists, as a `Sequence` feature of Hugging Face's datasets gives them, or the only turn."""
    lists = {key: cell for key, cell in value.items() if isinstance(cell, (list, tuple))}
    if not any(key in lists for key in ("role", "from")):
        return [value]
    if len({len(cell) for cell in lists.values()}) > 1 or len(lists) < len(value):
        raise RowError(f"column {column!r}: a dict of lists must hold as many of each, got {_keys(value)}")
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _keys(value: Row) -> str:
    return listed([str(key) for key in value], "")
