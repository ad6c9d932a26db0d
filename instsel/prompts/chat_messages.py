"""Examples as the messages, the tools and the settings that a chat template is given."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from instsel.records import Example
from instsel.records.chat import REASONING_KEYS
from instsel.records.json_types import Message, Tool

# What transformers' `apply_chat_template` takes by these names itself.
TAKEN = frozenset({
    "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize", "padding",
    "continue_final_message", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs",
    "return_assistant_tokens_mask",
})  # fmt: skip

# A template's own switches by which it leaves earlier turns their reasoning.
KEEPING = {"preserve_thinking": True, "keep_past_thinking": True, "clear_thinking": False,
           "truncate_history_thinking": False}  # fmt: skip


class TemplateRefusalError(ValueError):
    """What a template makes of one example cannot be scored."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """How conversations are written and scored.

    reasoning       "keep": the reasoning's tokens are scored with the answer's; "drop": they stand before it; "only"
    template_kwargs what the template is told for every row; a row's own stand before them
    keep_reasoning  whether a demonstration is to keep its reasoning, by the template's own switch
    """

    reasoning: str = "keep"
    template_kwargs: Mapping[str, object] = field(default_factory=dict)
    keep_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class ChatInput:
    """What a template is given: the messages before the answer, the answer's, those after it, tools, and settings."""

    before: list[Message]
    answer: Message
    later: list[Message]
    tools: list[Tool] | None
    template_kwargs: dict[str, object]


def chat_input(example: Example, demonstration: Example | None, settings: ChatSettings, source: str) -> ChatInput:
    """The input for an example, with a demonstration's whole conversation before its own.

    source: the template's text, which says under which key it reads reasoning. A system turn that both have is written
    once, and a tool that both have. Raises TemplateRefusalError for a call that no tool answers, and for a row that
    tells its template what every template is given.
    """
    own = messages_of(example)
    shown = [] if demonstration is None else messages_of(demonstration)
    if shown and own[0]["role"] in ("system", "developer") and own[0] == shown[0]:
        own = own[1:]
    chats = [one.chat for one in (demonstration, example) if one is not None and one.chat is not None]
    tools: list[Tool] = []
    for chat in chats:
        tools += [tool for tool in chat.tools or () if tool not in tools]
    told = dict(settings.template_kwargs)
    if settings.keep_reasoning:
        told |= {name: value for name, value in KEEPING.items() if name in source}
    if example.chat is not None:
        told |= example.chat.template_kwargs
        for name in sorted(TAKEN & example.chat.template_kwargs.keys()):
            raise TemplateRefusalError(f"the row's chat_template_kwargs must not say {name!r}")
    messages = [_keyed(message, source) for message in (*shown, *own)]
    later = [] if example.chat is None else [_keyed(message, source) for message in example.chat.later]
    return ChatInput(messages[:-1], messages[-1], later, tools or None, told)


def messages_of(example: Example) -> list[Message]:
    """All messages of an example, the answer's the last."""
    if example.chat is not None:
        messages: list[Message] = [dict(message) for message in example.chat.messages]
        for message, following in itertools.pairwise(messages):
            if message.get("tool_calls") and following["role"] != "tool":
                raise TemplateRefusalError("a call of a tool has no answer: a turn of role 'tool' must follow it")
        return messages
    given = example.instruction + ("\n" + example.input if example.input.strip() else "")
    turns = [*example.history, ("user", given), ("assistant", example.response)]
    return [{"role": role, "content": text} for role, text in turns]


def message_count(example: Example) -> int:
    """How many messages an example has, its answer's too."""
    return len(example.history) + 2 if example.chat is None else len(example.chat.messages)


def reasoning_of(message: Message) -> str:
    """The reasoning that a message holds apart from its content; empty where there is none."""
    return next((message[key] for key in REASONING_KEYS if isinstance(message.get(key), str)), "")


def _keyed(message: Message, source: str) -> Message:
    """A message with its reasoning under the key that the template reads."""
    out = dict(message)
    held = next((key for key in REASONING_KEYS if isinstance(out.get(key), str)), None)
    if held is not None and not _reads(source, held):
        known = next((key for key in REASONING_KEYS if _reads(source, key)), held)
        out[known] = out.pop(held)
    return out


def _reads(source: str, key: str) -> bool:
    return re.search(rf"[.'\"]{key}\b", source) is not None


def with_arguments_as_text(messages: Sequence[Message]) -> list[Message]:
    """Messages whose calls have their arguments as JSON text, for templates that join them to other texts."""
    out: list[Message] = []
    for message in messages:
        calls = [
            {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
            for call in message.get("tool_calls", ())
        ]
        out.append({**message, "tool_calls": calls} if calls else dict(message))
    return out
