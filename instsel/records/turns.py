"""A cell as text, or as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instsel.records.formats import listed, shortened

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip


Turn = tuple[str, str]  # role, text


class RowError(ValueError):
    """A row that does not hold what its format says; the caller adds the row's number."""


def text_of(value: Any, column: str) -> str:
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


def _part_text(part: Mapping[str, Any], column: str) -> str:
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise RowError(f"column {column!r} holds content that is not text (type {shortened(str(part.get('type')))})")
    return str(part["text"])


def is_turns(value: Any) -> bool:
    """Whether a cell holds turns: a list of them, one alone, or a dict of lists; text may be a list, of parts."""
    held = [value] if isinstance(value, Mapping) else value
    if not isinstance(held, (list, tuple)):
        return False
    return any(isinstance(turn, Mapping) and ("role" in turn or "from" in turn) for turn in held)


def turns_of(value: Any, column: str) -> list[Turn]:
    """Turns of role/content or from/value as (role, text): a list, one alone, or a dict of their lists."""
    if isinstance(value, Mapping):
        value = _one_by_one(value, column)
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise RowError(f"column {column!r} must hold a list of turns, got {type(value).__name__}")
    out = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError(f"column {column!r}: a turn must be a mapping, got {type(turn).__name__}")
        role_key, text_key = ("role", "content") if turn.get("role") is not None else ("from", "value")
        role = turn.get(role_key)
        if not isinstance(role, str) or text_key not in turn:
            raise RowError(f"column {column!r}: a turn needs role and content, or from and value; got {_keys(turn)}")
        if role.lower() not in ROLES:
            raise RowError(f"column {column!r}: role {shortened(role)} is not one of {', '.join(ROLES)}")
        out.append((ROLES[role.lower()], text_of(turn[text_key], column)))
    return out


def _one_by_one(value: Mapping[str, Any], column: str) -> list[Any]:
    """The turns of a dict of lists, as a `Sequence` feature of Hugging Face's datasets gives them, or the only turn."""
    lists = {key: cell for key, cell in value.items() if isinstance(cell, (list, tuple))}
    if not any(key in lists for key in ("role", "from")):
        return [value]
    if len({len(cell) for cell in lists.values()}) > 1 or len(lists) < len(value):
        raise RowError(f"column {column!r}: a dict of lists must hold as many of each, got {_keys(value)}")
    return [dict(zip(lists, cells, strict=True)) for cells in zip(*lists.values(), strict=True)]


def _keys(value: Mapping[str, Any]) -> str:
    return listed([str(key) for key in value], "")
