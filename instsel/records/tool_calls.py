"""Tools and calls of them, however a row writes them, as transformers' `apply_chat_template` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from instsel.records.formats import shortened
from instsel.records.json_rows import DECODER
from instsel.records.json_types import JsonObject, JsonValue, Row
from instsel.records.row_errors import RowError
from instsel.records.row_sources import plain
from instsel.records.unread_keys import holds


def calls_of(turn: Row, column: str) -> list[JsonObject]:
    """The calls of a turn, from `tool_calls`, or the one `function_call` that OpenAI's files had before it.

    Each is `{"type": "function", "function": {"name": ..., "arguments": {...}}}`, with its id where it has one. Raises
    RowError for what is no call, and for arguments that are no JSON object.
    """
    given = plain(turn.get("tool_calls"))
    if not holds(given):
        older = plain(turn.get("function_call"))
        return [_call(older, column)] if holds(older) else []
    if isinstance(given, str):
        given = _decoded(given, column, "tool_calls")
    if not isinstance(given, list):
        raise RowError(f"column {column!r}: tool_calls must be a list, got {type(given).__name__}")
    return [_call(call, column) for call in given]


def call_of_text(text: str, column: str) -> list[JsonObject]:
    """The calls that a ShareGPT turn of the role `function_call` holds as JSON text: one, or a list of them."""
    given = _decoded(text, column, "a function call")
    return [_call(call, column) for call in (given if isinstance(given, list) else [given])]


def _call(call: Any, column: str) -> JsonObject:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowError(f"column {column!r}: a call needs a name and arguments, got {shortened(str(call))}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _decoded(arguments, column, f"the arguments of {shortened(function['name'])}") if arguments else {}
    if arguments is not None and not isinstance(arguments, Mapping):
        raise RowError(
            f"column {column!r}: the arguments of {shortened(function['name'])} must be a JSON object, got "
            f"{type(arguments).__name__}"
        )
    outer = {key: value for key, value in call.items() if key in ("id", "type") and holds(value)}
    return {"type": "function", **outer, "function": {"name": function["name"], "arguments": dict(arguments or {})}}


def tools_of(row: Row) -> list[JsonObject] | None:
    """The tools of a row's column `tools`, or `functions`, as JSON schemas; None where it names none.

    >>> tools_of({"tools": '[{"name": "add"}]'})
    [{'type': 'function', 'function': {'name': 'add'}}]
    """
    name = next((one for one in ("tools", "functions") if holds(row.get(one))), None)
    if name is None:
        return None
    given = plain(row[name])
    if isinstance(given, str):
        given = _decoded(given, name, "tools") if given.strip() else []
    if not isinstance(given, list):
        raise RowError(f"column {name!r} must hold a list of tools, or its JSON text, got {type(given).__name__}")
    return [_tool(tool, name) for tool in given] or None


def _tool(tool: object, column: str) -> JsonObject:
    if isinstance(tool, str):
        tool = _decoded(tool, column, "a tool")
    if not isinstance(tool, Mapping):
        raise RowError(f"column {column!r}: a tool must be a JSON object, got {type(tool).__name__}")
    found: JsonObject = (
        dict(tool) if "function" in tool or "name" not in tool else {"type": "function", "function": dict(tool)}
    )
    if not isinstance(found.get("function", {}), Mapping):
        raise RowError(f"column {column!r}: the function of a tool must be a JSON object, got {shortened(str(tool))}")
    return found


def template_kwargs_of(row: Row) -> JsonObject:
    """What a row's column `chat_template_kwargs` tells the template."""
    given = plain(row.get("chat_template_kwargs"))
    if isinstance(given, str) and given.strip():
        given = _decoded(given, "chat_template_kwargs", "it")
    if not holds(given):
        return {}
    if not isinstance(given, Mapping):
        raise RowError(f"column 'chat_template_kwargs' must hold a JSON object, got {type(given).__name__}")
    return {str(key): value for key, value in given.items() if value is not None}


def _decoded(text: str, column: str, what: str) -> JsonValue:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        raise RowError(f"column {column!r}: {what} must be JSON, got {shortened(text)}") from None
