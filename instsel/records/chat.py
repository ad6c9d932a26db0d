"""A conversation as a chat template is given it, and its parts that are answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instsel.records.formats import Layout
from instsel.records.json_types import JsonMapping, Message, Row, Tool
from instsel.records.tool_calls import template_kwargs_of, tools_of
from instsel.records.turns import Turn, is_turns
from instsel.records.unread_keys import keys_beside

TRAIN_KEYS = ("weight", "train", "training", "loss")  # of a turn; 0 or false: it is not trained on
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


@dataclass(frozen=True, slots=True)
class Chat:
    """What transformers' `apply_chat_template` is given for a row, the answer being the last message.

    messages         dicts of role ("system", "developer", "user", "assistant", "tool"), content, and whatever else the
                     row's turns hold; the arguments of `tool_calls` are dicts
    tools            JSON schemas, or None
    template_kwargs  what the row tells the template
    trained          of each message, whether the row says nothing against training on it
    later            the messages after the answer, which a template writes as well; mostly none
    keys             what the row holds beside role and text, by the keys that `UnreadKeys` counts
    """

    messages: tuple[Message, ...]
    tools: Sequence[Tool] | None = None
    template_kwargs: JsonMapping = field(default_factory=dict)
    trained: tuple[bool, ...] = ()
    later: tuple[Message, ...] = ()
    keys: tuple[str, ...] = field(default=(), compare=False)


def chat_of(
    row: Row,
    layout: Layout,
    turns: Sequence[Turn],
    context: str,
    answer: Turn,
    clean: Callable[[str], str],
) -> Chat | None:
    """The chat of a row's turns before an answer, and that answer; None where role and text are all that they hold.

    `context` is the text of the input column, which follows the last turn's. Raises RowError for tools that are none.
    """
    if not holds_turns(row, layout):
        return None
    tools, told, whole = tools_of(row), template_kwargs_of(row), [*turns, answer]
    if all(turn.is_plain for turn in whole) and not tools and not told:
        return None
    trained = tuple(not _is_left_out(turn.message) for turn in whole)
    messages = [dict(turn.message) for turn in whole]
    if context.strip():
        messages[-2]["content"] += "\n" + context
    return Chat(
        tuple(cleaned(messages, clean)),
        cleaned(tools, clean),
        cleaned(told, clean),
        trained,
        keys=tuple(keys_beside(row, layout)),
    )


def holds_turns(row: Row, layout: Layout) -> bool:
    """Whether a row holds turns where it could hold texts."""
    return any(is_turns(row.get(layout.columns[name])) for name in (layout.prompt, *layout.answers))


def turns_asked(row: Row, layout: Layout) -> int:
    """How many turns a prompt has that stands apart from its answer: nobody trains on them."""
    apart = row.get(layout.columns[layout.prompt]) if layout.prompt not in layout.answers else None
    return len(apart) if isinstance(apart, (list, tuple)) else 0


def _is_left_out(message: Message) -> bool:
    """Whether the row says that a turn is not trained on."""
    given = [message[key] for key in TRAIN_KEYS if key in message]
    return any(isinstance(value, (bool, int, float)) and not value for value in given)


def text_of_message(message: Message) -> str:
    """A message for those who read texts: its own, and each of its calls as JSON on a line."""
    text = message.get("content") or ""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([text, *calls] if text.strip() else calls) if calls else text


def cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    """A value of JSON's kinds with every text in it cleaned."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): cleaned(one, clean) for key, one in value.items()}
    return [cleaned(one, clean) for one in value] if isinstance(value, (list, tuple)) else value
