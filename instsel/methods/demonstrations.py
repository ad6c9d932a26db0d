"""Demonstrations cut from their left, so that the answer after them fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from instsel.methods.stages import StageSlice
from instsel.methods.turn_requests import TurnRequests
from instsel.prompts import encode_pairs
from instsel.records import Example
from instsel.records.chat import TRAIN_KEYS

Pair = tuple[Example, Example]  # demonstration, example


def cut_to_fit(
    part: StageSlice, pairs: Sequence[Pair], rows: Sequence[tuple[int, int]] | None = None
) -> list[Example | None]:
    """For each pair the demonstration with just so much taken from its left that the whole sequence fits.

    First its earlier turns go, then characters of its instruction, its input and its answer. None where it fits as it
    is, or where no part of its answer would be left: there the pair is too long. `rows` are the pairs' numbers, for
    an error to name.
    """
    limit = part.token_limit
    out: list[Example | None] = [None] * len(pairs)
    if limit is None:
        return out

    def fit(tried: Mapping[int, Pair]) -> list[bool]:
        numbers = [(None, None) if rows is None else rows[i] for i in tried]
        texts = [
            part.request_of(example, demonstration, row=row, demonstration_row=demonstration_row)
            for (demonstration, example), (demonstration_row, row) in zip(tried.values(), numbers, strict=True)
        ]
        longest = [(one[-1] if one else ("", "")) if isinstance(one, TurnRequests) else one for one in texts]
        encoded = encode_pairs(part.scorer.tokenizer, longest, max_tokens=limit)
        return [not one.too_long and len(one.ids) <= limit for one in encoded]

    too_long = [i for i, fits in enumerate(fit(dict(enumerate(pairs)))) if not fits]
    # Bisection on the number of characters cut: with fewer than `low` it does not fit, with `high` it does.
    too_long = [i for i in too_long if _is_texts(pairs[i][0])]  # of tools, calls and reasoning no part can be taken
    low = dict.fromkeys(too_long, 0)
    high = {i: _size(pairs[i][0]) - 1 for i in too_long}
    shortest = {i: (_cut(pairs[i][0], high[i]), pairs[i][1]) for i in too_long}
    open_pairs = [i for i, fits in zip(too_long, fit(shortest), strict=True) if fits]
    for i in open_pairs:
        out[i] = shortest[i][0]
    while open_pairs:
        middle = {i: (low[i] + high[i]) // 2 for i in open_pairs}
        tried = {i: (_cut(pairs[i][0], middle[i]), pairs[i][1]) for i in open_pairs}
        for i, fits in zip(open_pairs, fit(tried), strict=True):
            if fits:
                high[i], out[i] = middle[i], tried[i][0]
            else:
                low[i] = middle[i] + 1
        open_pairs = [i for i in open_pairs if low[i] < high[i]]
    return out


def _is_texts(example: Example) -> bool:
    chat = example.chat
    known = {"role", "content", *TRAIN_KEYS}
    return chat is None or (not chat.tools and all(message.keys() <= known for message in chat.messages))


def _size(example: Example) -> int:
    """Characters that can be cut: a blank rest is no answer, so all up to the answer's last visible character."""
    return len(example.instruction) + len(example.input) + len(example.response.rstrip())


def _cut(example: Example, count: int) -> Example:
    """The example without its earlier turns and its first `count` characters."""
    parts = []
    for text in (example.instruction, example.input, example.response):
        parts.append(text[count:])
        count = max(0, count - len(text))
    return replace(example, instruction=parts[0], input=parts[1], response=parts[2], history=(), chat=None)
