"""A tokenizer's control tokens in the texts that rows hold, which a model reads as such and not as letters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from instsel.records.examples import ReadRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIELDS = ("instruction", "input", "response", "responses", "history")


def control_token_pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """What finds the tokenizer's special tokens that stand in a text; None where it reads none from texts."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    named = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    found = [token for token in sorted(named, key=len, reverse=True) if token and _is_read(tokenizer, token)]
    return re.compile("|".join(map(re.escape, found))) if found else None


def _is_read(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    """Whether the tokenizer makes this token of its text, as most do that are not told to split such texts."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return tokenizer.convert_tokens_to_ids(token) in ids


def control_tokens_in(record: ReadRow, pattern: re.Pattern[str]) -> set[str]:
    """The control tokens in a row's own texts: its turns, its calls and tools, all its answers."""
    values: list[Any] = [getattr(record, name, "") for name in _FIELDS]
    for chat in (getattr(record, "chat", None), *getattr(record, "chats", ())):
        values += [] if chat is None else [chat.messages, chat.later, chat.tools]
    return {token for text in _texts(values) for token in pattern.findall(text)}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
