"""Which format a set of columns is.

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

FIELDS = (
    "instruction", "input", "response", "system", "history", "messages", "prompt", "chosen", "rejected", "candidates",
)  # fmt: skip
FIELD_ALIASES = {"output": "response", "completion": "response", "conversations": "messages", "responses": "candidates"}
DEFAULT_COLUMNS = {
    "messages": ("messages", "conversations", "conversation"),
    "candidates": ("candidates", "responses"),
}
RESPONSE_COLUMNS = {"instruction": ("output", "response"), "prompt": ("completion", "response")}
OPTIONAL = {"instruction": ("input", "system", "history"), "prompt": ("input", "system"), "messages": ("system",)}
KNOWN = (
    "instruction + output (or response), messages, conversations, prompt + completion (or response), "
    "chosen + rejected, candidates"
)

_MAPPING = "--columns FIELD=COLUMN (columns={...} in Python)"


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
    mapped = _checked_mapping(names, columns)
    found = {field: _usual(names, field, DEFAULT_COLUMNS.get(field, (field,)), mapped) for field in FIELDS}
    prompts = [field for field in ("instruction", "prompt") if found[field]]
    turns = ["messages"] if found["messages"] else []
    responses = {field: _usual(names, "response", RESPONSE_COLUMNS[field], mapped) for field in prompts}
    pair = found["chosen"] and found["rejected"]
    fits: list[tuple[str, str, tuple[str, ...]]] = []
    if pair:
        fits += [("preference pairs", source, ("chosen", "rejected")) for source in prompts or turns or ["chosen"]]
    if kind == "group" and found["candidates"]:
        fits += [("candidate groups", source, ("candidates",)) for source in prompts + turns]
    if kind == "example":
        names_of = {"instruction": "alpaca", "prompt": "prompt and completion"}
        fits += [(names_of[source], source, ("response",)) for source in prompts if responses[source]]
        if turns and (prompts or not pair):
            fits.append(("messages", "messages", ("messages",)))
    fits = [fit for fit in fits if set(mapped) <= {fit[1], *fit[2], *OPTIONAL.get(fit[1], ())}]
    if len(fits) != 1:
        raise ValueError(_no_single_format(names, fits, kind))
    name, source, answers = fits[0]
    used = {field: found[field] for field in (source, *answers, *OPTIONAL.get(source, ())) if found[field]}
    if "response" in answers:
        used["response"] = responses[source]
    if source == "prompt" and "input" not in mapped:
        used.pop("input", None)
    for field, usual in used.items():
        if len(usual) > 1:
            both, named = " and ".join(repr(column) for column in usual), _MAPPING.replace("FIELD", field)
            raise ValueError(f"ambiguous columns: {both} are both present; {named} names one")
    return Layout(name, source, answers, {field: usual[0] for field, usual in used.items()})


def _usual(names: Sequence[str], field: str, usual: Sequence[str], mapped: Mapping[str, str]) -> list[str]:
    return [mapped[field]] if field in mapped else [name for name in usual if name in names]


def _checked_mapping(names: Sequence[str], columns: Mapping[str, str] | None) -> dict[str, str]:
    if columns is not None and not isinstance(columns, Mapping):
        raise TypeError(f"columns must map fields to columns, got {type(columns).__name__}")
    mapping: dict[str, str] = {}
    for given, column in (columns or {}).items():
        field = FIELD_ALIASES.get(given, given)
        if field not in FIELDS:
            raise ValueError(f"columns: unknown field {given!r}; the fields are {', '.join(FIELDS)}")
        if column not in names:
            raise ValueError(f"columns: {given!r} is mapped to {column!r}, which is not among {listed(names)}")
        if field in mapping:
            raise ValueError(f"columns: the field {field!r} is given twice")
        mapping[field] = column
    return mapping


def listed(names: Sequence[str], what: str = "the columns ") -> str:
    """Names for a message: data may hold any number of them, of any length."""
    shown = ", ".join(shortened(name) for name in names[:20])
    return what + (shown or "(none)") + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def shortened(text: str, limit: int = 50) -> str:
    """A text in quotes for a message, control characters escaped."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


def _no_single_format(names: Sequence[str], fits: Sequence[tuple[str, str, tuple[str, ...]]], kind: str) -> str:
    if fits:
        read = " or ".join(sorted({f"{name} (prompt from {source!r})" for name, source, _ in fits}))
        return f"ambiguous format: {listed(names)} can be read as {read}; {_MAPPING} says which"
    if kind == "group":
        want = "candidates (or responses), or chosen + rejected, beside instruction, prompt or messages"
    else:
        want = KNOWN.rsplit(", ", 1)[0]
        if "candidates" in names:
            want += "; these are candidate groups, which grape reads (to_groups in Python)"
    return f"unknown format: found {listed(names)}; expected {want}; {_MAPPING} maps others"
