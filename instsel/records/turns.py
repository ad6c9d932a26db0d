"""A row of a known format as the turns of its prompt and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instsel.records.formats import Layout, listed, shortened

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip


class RowError(ValueError):
    """A row that does not hold what its format says; the caller adds the row's number."""


def text_of(value: Any, column: str) -> str:
    """A cell as text: null and NaN are "", a number is written out, a list of text parts is joined."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) != float("inf"):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "".join(_part_text(part, column) for part in value)
    raise RowError(f"column {column!r} must hold text, got {type(value).__name__}")


def _part_text(part: Mapping[str, Any], column: str) -> str:
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise RowError(f"column {column!r} holds content that is not text (type {shortened(str(part.get('type')))})")
    return str(part["text"])


def turns_of(value: Any, column: str) -> list[tuple[str, str]]:
    """A list of turns, of role/content or from/value, as (role, text)."""
    if isinstance(value, Mapping):
        value = [value]
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


def _keys(value: Mapping[str, Any]) -> str:
    return listed([str(key) for key in value], "")


def _cell(row: Mapping[str, Any], layout: Layout, field: str) -> Any:
    column = layout.columns[field]
    if column not in row:
        raise RowError(f"has no column {column!r}, only {listed([str(name) for name in row])}")
    return row[column]


def _optional_text(row: Mapping[str, Any], layout: Layout, field: str) -> str:
    column = layout.columns.get(field)
    return text_of(row.get(column), column) if column else ""


def prompt_turns(row: Mapping[str, Any], layout: Layout) -> tuple[list[tuple[str, str]], str]:
    """The prompt as turns that end with the user's, and the input column's text; no text where the prompt is null."""
    value, column, context = _cell(row, layout, layout.prompt), layout.columns[layout.prompt], ""
    conversation = _conversation(row, layout, "chosen") if "chosen" in layout.answers else None
    if conversation is not None:
        turns, _ = _split_answer(conversation)
        other = _conversation(row, layout, "rejected")
        if other is not None and _split_answer(other)[0] != turns:
            raise RowError("the chosen and the rejected conversation have different prompts")
    elif layout.prompt == "chosen":
        raise RowError("has no prompt: neither a column with it, nor turns of the user in the chosen conversation")
    elif layout.prompt == "messages" or _is_turns(value):
        turns = turns_of(value, column)
        if layout.answers == ("messages",):
            turns, _ = _split_answer(turns)
    else:
        turns = [*_history(row, layout), ("user", text_of(value, column))]
    if not turns and not value:
        turns = [("user", "")]
    if not turns or turns[-1][0] != "user":
        got = f"got one of role {turns[-1][0]!r}" if turns else "found none"
        raise RowError(f"column {column!r}: the turn before the answer must be the user's, {got}")
    if layout.prompt != "messages":
        context = _optional_text(row, layout, "input")
    system = _optional_text(row, layout, "system")
    if system and turns[0][0] != "system":
        turns = [("system", system), *turns]
    return turns, context


def _conversation(row: Mapping[str, Any], layout: Layout, field: str) -> list[tuple[str, str]] | None:
    """The turns of a column that holds a whole conversation, the user's turns with it; None where it does not."""
    value = _cell(row, layout, field)
    if not _is_turns(value):
        return None
    turns = turns_of(value, layout.columns[field])
    return turns if any(role == "user" for role, _ in turns) else None


def _is_turns(value: Any) -> bool:
    """Whether a cell holds turns; text may also come as a list, of parts."""
    return isinstance(value, (list, tuple)) and any(
        isinstance(v, Mapping) and ("role" in v or "from" in v) for v in value
    )


def _history(row: Mapping[str, Any], layout: Layout) -> list[tuple[str, str]]:
    """Earlier exchanges, each a pair (question, answer)."""
    column = layout.columns.get("history")
    pairs = row.get(column) if column else None
    if pairs is None:
        return []
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise RowError(f"column {column!r} must hold a list of pairs (question, answer)")
    return [
        turn for q, a in pairs for turn in (("user", text_of(q, str(column))), ("assistant", text_of(a, str(column))))
    ]


def _split_answer(turns: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Everything before the last assistant turn, and that turn's text ("" where there is none)."""
    for at in range(len(turns) - 1, -1, -1):
        if turns[at][0] == "assistant":
            return turns[:at], turns[at][1]
    return turns, ""


def answer_texts(row: Mapping[str, Any], layout: Layout) -> list[str]:
    """The answers of a row: one, or the chosen and the rejected one, or all candidates."""
    texts = []
    for field in layout.answers:
        value, column = _cell(row, layout, field), layout.columns[field]
        if field == "candidates":
            if value is not None and not isinstance(value, (list, tuple)):
                raise RowError(f"column {column!r} must hold a list of candidates, got {type(value).__name__}")
            texts += [_candidate_text(candidate, column) for candidate in value or ()]
        elif field == "messages" or isinstance(value, Mapping) or _is_turns(value):
            texts.append(_split_answer(turns_of(value, column))[1])
        else:
            texts.append(text_of(value, column))
    return texts


def _candidate_text(candidate: Any, column: str) -> str:
    if isinstance(candidate, Mapping):
        named = [candidate[name] for name in ("response", "output") if name in candidate]
        if named:
            return text_of(next((value for value in named if value is not None), None), column)
        raise RowError(f"column {column!r}: a candidate needs 'response', got {_keys(candidate)}")
    return text_of(candidate, column)
