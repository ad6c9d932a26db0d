"""Which format a set of columns is, and how a row of it becomes the turns of a prompt and its answers.

========================  ==============================================================================
alpaca                    ``instruction``, ``output`` or ``response``; also ``input``, ``system``, ``history``
messages, ShareGPT        ``messages`` or ``conversations``: turns of role/content or from/value
prompt and completion     ``prompt``, ``completion`` or ``response``: text, or lists of turns
preference pairs          ``chosen``, ``rejected`` beside ``prompt``, ``instruction`` or the turns, or holding them
candidate groups          ``candidates`` or ``responses`` beside ``instruction``, ``prompt`` or the turns
========================  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIELDS = (
    "instruction", "input", "response", "system", "history", "messages", "prompt", "chosen", "rejected", "candidates",
)  # fmt: skip
FIELD_ALIASES = {"output": "response", "completion": "response", "conversations": "messages", "responses": "candidates"}
DEFAULT_COLUMNS = {
    "messages": ("messages", "conversations", "conversation"),
    "candidates": ("candidates", "responses"),
}
RESPONSE_COLUMNS = {"instruction": ("output", "response"), "prompt": ("completion", "response")}
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "chatgpt": "assistant", "bot": "assistant",
}  # fmt: skip
KNOWN = (
    "instruction + output (or response), messages, conversations, prompt + completion (or response), "
    "chosen + rejected, candidates"
)


class RowError(ValueError):
    """A row that does not hold what its format says; the caller adds the row's number."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A format and the column of each of its fields.

    ``prompt`` is the field that the prompt comes from ("instruction", "prompt", "messages", or "chosen" where the
    conversations hold it), ``answers`` the fields that the answers come from ("messages": the last assistant turn).
    """

    name: str
    prompt: str
    answers: tuple[str, ...]
    columns: Mapping[str, str]


def detect_layout(names: Sequence[str], columns: Mapping[str, str] | None = None, *, kind: str = "example") -> Layout:
    """Decide the format from the column names.

    names: the columns present. columns: field to column, overriding the usual names. kind: "example" or "group".
    Raises ValueError naming the columns present where no format fits, or more than one.

    >>> detect_layout(["id", "prompt", "completion"]).name
    'prompt and completion'
    """
    chosen = _checked_mapping(names, columns)
    present = {field: chosen.get(field) or _find(names, DEFAULT_COLUMNS.get(field, (field,))) for field in FIELDS}
    prompts = [field for field in ("instruction", "prompt") if present[field]]
    fits: list[tuple[str, str, tuple[str, ...]]] = []
    pair = present["chosen"] and present["rejected"]
    if pair:
        sources = prompts or (["messages"] if present["messages"] else ["chosen"])
        fits += [("preference pairs", source, ("chosen", "rejected")) for source in sources]
    if kind == "group":
        if present["candidates"]:
            sources = prompts + (["messages"] if present["messages"] else [])
            fits += [("candidate groups", source, ("candidates",)) for source in sources]
    else:
        for source in prompts:
            usual = chosen.get("response") or _find(names, RESPONSE_COLUMNS[source])
            if usual:
                name = "alpaca" if source == "instruction" else "prompt and completion"
                fits.append((name, source, ("response",)))
        if present["messages"] and (prompts or not pair):
            fits.append(("messages", "messages", ("messages",)))
    optional = {"instruction": {"input", "system", "history"}, "prompt": {"system", "input"}, "messages": {"system"}}
    fits = [fit for fit in fits if set(chosen) <= {fit[1], *fit[2]} | optional.get(fit[1], set())]
    if len(fits) != 1:
        raise ValueError(_no_single_format(names, fits, kind))
    name, source, answers = fits[0]
    wanted = {source, *answers} | optional.get(source, set())
    layout = {field: column for field, column in present.items() if column and field in wanted}
    if "response" in answers:
        layout["response"] = chosen.get("response") or _find(names, RESPONSE_COLUMNS[source]) or ""
    if source == "prompt" and "input" not in chosen:
        layout.pop("input", None)
    return Layout(name, source, answers, layout)


def _checked_mapping(names: Sequence[str], columns: Mapping[str, str] | None) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for given, column in (columns or {}).items():
        field = FIELD_ALIASES.get(given, given)
        if field not in FIELDS:
            raise ValueError(f"columns: unknown field {given!r}; the fields are {', '.join(FIELDS)}")
        if column not in names:
            raise ValueError(f"columns: {given!r} is mapped to {column!r}, which is not among {_listed(names)}")
        if field in mapping:
            raise ValueError(f"columns: the field {field!r} is given twice")
        mapping[field] = column
    return mapping


def _find(names: Sequence[str], usual: Sequence[str]) -> str | None:
    found = [name for name in usual if name in names]
    if len(found) > 1:
        raise ValueError(
            f"ambiguous columns: both {' and '.join(map(repr, found))} are present; name the one to read with columns"
        )
    return found[0] if found else None


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:40]]
    return "the columns " + (", ".join(shown) or "(none)") + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def _no_single_format(names: Sequence[str], fits: Sequence[tuple[str, str, tuple[str, ...]]], kind: str) -> str:
    if fits:
        read = " or ".join(sorted({f"{name} (prompt from {source!r})" for name, source, _ in fits}))
        return f"ambiguous format: {_listed(names)} can be read as {read}; say which with columns={{field: column}}"
    if kind == "group":
        want = "candidates (or responses), or chosen + rejected, beside instruction, prompt or messages"
    else:
        want = KNOWN.rsplit(", ", 1)[0]
        if "candidates" in names:
            want += "; these are candidate groups, which to_groups and grape read"
    return f"unknown format: found {_listed(names)}; expected {want}; map others with columns={{field: column}}"


def text_of(value: Any, column: str) -> str:
    """A cell as text: null and NaN are "", a number is written out, a list of text parts is joined."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "".join(_part_text(part, column) for part in value)
    raise RowError(f"column {column!r} must hold text, got {type(value).__name__}")


def _part_text(part: Mapping[str, Any], column: str) -> str:
    if part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
        raise RowError(f"column {column!r} holds content that is not text (type {part.get('type')!r})")
    return str(part["text"])


def turns_of(value: Any, column: str) -> list[tuple[str, str]]:
    """A list of turns, of role/content or from/value, as (role, text)."""
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise RowError(f"column {column!r} must hold a list of turns, got {type(value).__name__}")
    out = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError(f"column {column!r}: a turn must be a mapping, got {type(turn).__name__}")
        role_key, text_key = ("role", "content") if turn.get("role") is not None else ("from", "value")
        role = turn.get(role_key)
        if not isinstance(role, str) or text_key not in turn:
            raise RowError(f"column {column!r}: a turn needs role and content, or from and value; got {list(turn)}")
        if role.lower() not in ROLES:
            raise RowError(f"column {column!r}: role {role!r} is not one of {', '.join(ROLES)}")
        out.append((ROLES[role.lower()], text_of(turn[text_key], column)))
    return out


def _cell(row: Mapping[str, Any], layout: Layout, field: str) -> Any:
    column = layout.columns[field]
    if column not in row:
        raise RowError(f"has no column {column!r}, only {_listed([str(name) for name in row])}")
    return row[column]


def _optional_text(row: Mapping[str, Any], layout: Layout, field: str) -> str:
    column = layout.columns.get(field)
    return text_of(row.get(column), column) if column else ""


def prompt_turns(row: Mapping[str, Any], layout: Layout) -> tuple[list[tuple[str, str]], str]:
    """The prompt as turns that end with the user's, and the input column's text."""
    turns: list[tuple[str, str]] = []
    context = ""
    source = layout.prompt
    value = _cell(row, layout, source)
    column = layout.columns[source]
    if "chosen" in layout.answers and isinstance(row.get(layout.columns["chosen"]), (list, tuple)):
        whole = turns_of(row[layout.columns["chosen"]], layout.columns["chosen"])
        if any(role == "user" for role, _ in whole):
            source, turns = "turns", _split_answer(whole, column)[0]
    if source == "instruction":
        turns = [*_history(row, layout), ("user", text_of(value, column))]
        context = _optional_text(row, layout, "input")
    elif source == "prompt":
        is_turns = isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) and "text" not in v for v in value)
        turns = turns_of(value, column) if is_turns else [("user", text_of(value, column))]
        context = _optional_text(row, layout, "input")
    elif source == "messages":
        turns = turns_of(value, column)
        if layout.answers == ("messages",):
            turns = _split_answer(turns, column)[0]
    elif source == "chosen":
        raise RowError("has no prompt: neither a prompt column, nor turns of the user in 'chosen'")
    system = _optional_text(row, layout, "system")
    if system:
        turns = [("system", system), *turns]
    if not turns or turns[-1][0] != "user":
        raise RowError(f"column {column!r}: the turn before the answer must be the user's, got "
                       f"{turns[-1][0] if turns else 'no turn'!r}")  # fmt: skip
    return turns, context


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


def _split_answer(turns: list[tuple[str, str]], column: str) -> tuple[list[tuple[str, str]], str]:
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
            if not isinstance(value, (list, tuple)):
                raise RowError(f"column {column!r} must hold a list of candidates, got {type(value).__name__}")
            texts += [_candidate_text(candidate, column) for candidate in value]
        elif field == "messages" or (isinstance(value, (list, tuple, Mapping)) and value):
            texts.append(_split_answer(turns_of(value, column), column)[1])
        else:
            texts.append(text_of(value, column))
    return texts


def _candidate_text(candidate: Any, column: str) -> str:
    if isinstance(candidate, Mapping):
        for name in ("response", "output"):
            if name in candidate:
                return text_of(candidate[name], column)
        raise RowError(f"column {column!r}: a candidate needs 'response', got {list(candidate)}")
    return text_of(candidate, column)
