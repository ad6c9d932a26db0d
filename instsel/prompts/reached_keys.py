"""What of a row's keys a template has written, found in the text that it wrote."""

from __future__ import annotations

from collections.abc import Iterator

from instsel.prompts.answer_span import reasoning_block, without_blanks
from instsel.records import Example
from instsel.records.chat import REASONING_KEYS, Chat
from instsel.records.json_types import Message

RESULTS = "what tools answer"
EARLIER = "reasoning in earlier turns"
DEMONSTRATED = "reasoning in demonstrations"


def reached_keys(chat: Chat, text: str) -> list[str]:
    """Those of the keys that the row holds beside role and text whose values are in the text that its template wrote.

    Of tools and of calls their names are looked for.
    """
    written = without_blanks(text)
    return [key for key in chat.keys if key == "chat_template_kwargs" or _is_in(_values(chat, key), written)]


def results_of(chat: Chat) -> list[str]:
    """What tools answer, but for JSON, which a template may write otherwise."""
    texts = [str(message.get("content") or "").strip() for message in chat.messages if message["role"] == "tool"]
    return [text for text in texts if text[:1] not in ("{", "[")]


def _is_in(values: list[str], written: str) -> bool:
    return bool(values) and all(without_blanks(value) in written for value in values)


def _values(chat: Chat, key: str) -> list[str]:
    """What of a key's values is to be found in a text."""
    if key in ("tools", "functions"):
        return [str(tool.get("function", tool).get("name", "")) for tool in chat.tools or ()]
    if key in ("tool_calls", "function_call"):
        calls = (call for message in chat.messages for call in message.get("tool_calls", ()))
        return [call["function"]["name"] for call in calls]
    if key in (*REASONING_KEYS, "name", "tool_call_id"):
        return [str(message[key]) for message in chat.messages if key in message]
    return []


def reasoning_in(example: Example, *, with_answer: bool) -> list[str]:
    """The reasoning that an example's turns hold, under a key or in their texts, earlier ones or the answer's too."""
    return [text for text in _reasoning(example, with_answer) if text.strip()]


def _reasoning(example: Example, with_answer: bool) -> Iterator[str]:
    if example.chat is None:
        turns: list[Message] = [{"role": role, "content": text} for role, text in example.history]
        turns += [{"role": "assistant", "content": example.response}]
    else:
        turns = list(example.chat.messages)
    for turn in turns if with_answer else turns[:-1]:
        if turn["role"] == "assistant":
            yield from (turn[key] for key in REASONING_KEYS if isinstance(turn.get(key), str))
            block = reasoning_block(turn.get("content") or "").strip()
            yield block.removeprefix("<think>").removesuffix("</think>")


def is_written(reasoning: list[str], text: str) -> bool:
    """Whether all of it is in a text, blanks aside."""
    written = without_blanks(text) if reasoning else ""
    return all(without_blanks(one) in written for one in reasoning)
