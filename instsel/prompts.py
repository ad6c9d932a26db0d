"""Examples as text (prompt templates), and text as token ids with the span that is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.records import Example

TEMPLATES = ("plain", "alpaca", "chat")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids (int32) of context and continuation; the scored ones are ``ids[start:]``."""

    ids: np.ndarray
    start: int


def prompt_and_answer(
    template: str, example: Example, *, demonstration: Example | None = None, tokenizer: Any = None
) -> tuple[str, str]:
    """The context and the continuation of an example, ready for ``score_batch``."""
    if template == "plain":
        before = "" if demonstration is None else _plain_prompt(demonstration) + demonstration.response
        return before + _plain_prompt(example), example.response
    raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")


def context_text(
    template: str, example: Example, *, demonstration: Example | None = None, tokenizer: Any = None
) -> str:
    """What stands before the answer."""
    return prompt_and_answer(template, example, demonstration=demonstration, tokenizer=tokenizer)[0]


def _plain_prompt(example: Example) -> str:
    parts = [text for _, text in example.history] + [example.instruction]
    if example.input.strip():
        parts.append(example.input)
    return "".join(part + "\n" for part in parts)


def embedding_text(example: Example) -> str:
    """What the neighbour search embeds: the instruction, and on a line of its own the input where it is not blank."""
    return example.instruction + ("\n" + example.input if example.input.strip() else "")


def encode_pairs(
    tokenizer: Any,
    pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
    *,
    empty_context_token: int | None = None,
) -> list[Encoded]:
    """Tokenise context and continuation together; a token across the boundary is the continuation's."""
    out = []
    empty = tokenizer.bos_token_id
    if empty is None:
        empty = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else empty_context_token
    for context, continuation in pairs:
        if isinstance(context, str) and isinstance(continuation, str):
            encoding = tokenizer(context + continuation, return_offsets_mapping=True, return_special_tokens_mask=True)
            special = encoding["special_tokens_mask"]
            end = len(special)
            while end and special[end - 1] and encoding["offset_mapping"][end - 1][1] == 0:
                end -= 1
            start = end
            for i, (_, stop) in enumerate(encoding["offset_mapping"][:end]):
                if stop > len(context):
                    start = i
                    break
            ids = list(encoding["input_ids"][:end])
        else:

            def alone(text):
                return tokenizer(text)["input_ids"] if isinstance(text, str) else list(text)

            first = alone(context)
            second = alone(continuation)
            ids, start = first + second, len(first)
        if start == 0:
            if empty is None:
                raise ValueError("the tokenizer has neither BOS nor EOS; pass empty_context_token")
            ids, start = [empty, *ids], 1
        out.append(Encoded(np.asarray(ids, dtype=np.int32), start))
    return out
