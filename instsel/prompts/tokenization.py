"""Pairs of context and continuation as token ids, with the span that is scored.

Context and continuation are tokenised together, so that the model sees the tokens it would see in the whole text. A
token that straddles the boundary carries the continuation's first character and counts as the continuation's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.prompts.request_pairs import Part, request_pair, shown
from instsel.prompts.token_boundary import (
    Offsets,
    continuation_start_without_offsets,
    longest_token,
    special_token_counts,
)
from instsel.records import SurrogateFilter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_PARTS = (bytes, Mapping, Set)  # they have a length, and nothing that could be token ids
BATCH_PAIRS = 2048
BATCH_CHARACTERS = 1 << 20  # the Rust encodings take about 200 bytes a token


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of context and continuation.

    ids: int32 [n]. start: the scored tokens are ``ids[start:]``; at least 1 where there is anything to score.
    too_long: True where the text was not tokenised because it surely has more than ``max_tokens`` tokens; ids is empty.
    """

    ids: np.ndarray
    start: int
    too_long: bool = False


NOTHING = np.zeros(0, dtype=np.int32)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase | None,
    pairs: Sequence[tuple[Part, Part]],
    *,
    empty_context_token: int | None = None,
    max_tokens: int | None = None,
) -> list[Encoded]:
    """Tokenise pairs of context and continuation, in order, one Encoded each.

    Two texts are tokenised together: the tokenizer's own leading special tokens once, none of its trailing ones, and
    the scored span starts at the first token that carries a character of the continuation. Token ids are taken as
    given; a text beside ids is tokenised alone. An empty context is the tokenizer's leading special tokens, or where it
    adds none its BOS, its EOS, or ``empty_context_token``; the same token goes before a text whose first token
    straddles the boundary. Lone surrogates are replaced by U+FFFD.

    tokenizer: a transformers tokenizer; may be None if all pairs are ids.
    max_tokens: a text that surely exceeds it, by the longest token of the vocabulary, is marked too_long unread. A text
    that is tokenised may still turn out longer.

    Raises TypeError or ValueError naming the request's index where a pair is not two texts or lists of ids, and
    ValueError where an empty context has no token to stand for it.

    >>> encode_pairs(None, [([5, 6], [7])])
    [Encoded(ids=array([5, 6, 7], dtype=int32), start=2, too_long=False)]
    """
    return _Encoder(tokenizer, empty_context_token, max_tokens).encode(pairs)


class _Encoder:
    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, empty_context_token: int | None, max_tokens: int | None
    ) -> None:
        self.tokenizer: Any = tokenizer
        self.is_fast = bool(getattr(tokenizer, "is_fast", False))
        self.clean = SurrogateFilter()
        self.max_tokens = max_tokens
        self.max_characters: int | None = None
        self.bound_known = max_tokens is None
        self.leading: list[int] = []
        self.trailing = 0
        self.offsets: Offsets | None = None
        self.specials_known = tokenizer is None
        names = ("bos_token_id", "eos_token_id")
        own = [token for token in (getattr(tokenizer, name, None) for name in names) if token is not None]
        self.empty = own[0] if own else empty_context_token

    def encode(self, pairs: Sequence[tuple[Part, Part]]) -> list[Encoded]:
        out: list[Encoded | None] = [None] * len(pairs)
        texts: list[tuple[int, str, str]] = []
        for index, pair in enumerate(pairs):
            context, continuation = request_pair(pair, index)
            if isinstance(continuation, str) and (isinstance(context, str) or _is_empty(context)):
                self._need_tokenizer(index)
                texts.append((index, context if isinstance(context, str) else "", continuation))
            else:
                out[index] = self._of_ids(index, context, continuation)
        for batch in self._batches(texts, out):
            for (index, _, _), encoded in zip(batch, self._of_texts(batch), strict=True):
                out[index] = encoded
        self.clean.warn()
        return out  # type: ignore[return-value]

    def _need_tokenizer(self, index: int) -> None:
        if self.tokenizer is None:
            raise ValueError(f"requests[{index}] holds text, but there is no tokenizer; pass tokenizer, or token ids")
        if not self.specials_known:
            self.leading, self.trailing = special_token_counts(self.tokenizer)
            if self.is_fast:
                self.offsets = Offsets.of(self.tokenizer)
            self.specials_known = True

    def _batches(
        self, texts: Sequence[tuple[int, str, str]], out: list[Encoded | None]
    ) -> Iterator[list[tuple[int, str, str]]]:
        batch: list[tuple[int, str, str]] = []
        characters = 0
        for index, context, continuation in texts:
            context, continuation = self.clean(context), self.clean(continuation)
            length = len(context) + len(continuation)
            if self._surely_too_long(length):
                out[index] = Encoded(NOTHING, 0, too_long=bool(continuation))
                continue
            if batch and (len(batch) == BATCH_PAIRS or characters + length > BATCH_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append((index, context, continuation))
            characters += length
        if batch:
            yield batch

    def _surely_too_long(self, length: int) -> bool:
        if self.max_tokens is None or length <= 8 * self.max_tokens:  # the vocabulary is read for long texts only
            return False
        if not self.bound_known:
            longest = longest_token(self.tokenizer) if self.is_fast else None
            self.max_characters = None if longest is None else longest * self.max_tokens
            self.bound_known = True
        return self.max_characters is not None and length > self.max_characters

    def _of_texts(self, batch: Sequence[tuple[int, str, str]]) -> Iterator[Encoded]:
        leading, offsets = len(self.leading), self.offsets
        if offsets is None:
            for index, context, continuation in batch:
                ids = self.leading + self._alone(context + continuation)
                start = leading + continuation_start_without_offsets(
                    self.tokenizer, ids[leading:], self._alone, context, continuation, index
                )
                yield self._finished(ids, start, bool(context), bool(continuation), index)
            return
        encodings = self.tokenizer(
            [context + continuation for _, context, continuation in batch],
            return_attention_mask=False,
            return_token_type_ids=False,
            padding=False,
            truncation=False,
            verbose=False,
        ).encodings
        for (index, context, continuation), encoding in zip(batch, encodings, strict=True):
            ids = encoding.ids
            end = len(ids) - self.trailing
            if context and continuation:
                start = offsets.continuation_start(encoding, context, continuation, leading, end)
            else:
                start = end if context else leading
            yield self._finished(ids[:end], start, bool(context), bool(continuation), index)

    def _finished(self, ids: list[int], start: int, has_context: bool, has_continuation: bool, index: int) -> Encoded:
        leading = len(self.leading)
        if has_context and leading and start >= 2 * leading and ids[leading : 2 * leading] == ids[:leading]:
            ids, start = ids[leading:], start - leading  # the text itself began with them, as chat templates write it
        if start == 0 and has_continuation and ids:
            ids, start = [self._empty_token(index), *ids], 1
        return Encoded(np.array(ids, dtype=np.int32), start)

    def _empty_token(self, index: int) -> int:
        if self.empty is None:
            raise ValueError(
                f"requests[{index}]: no token stands before the continuation (the context is empty, or one token with "
                "it), and the tokenizer has neither a BOS nor an EOS token to put there; pass empty_context_token"
            )
        return int(self.empty)

    def _alone(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return list(ids["input_ids"])

    def _of_ids(self, index: int, context: Part, continuation: Part) -> Encoded:
        if type(context) is list and type(continuation) is list:
            start = len(context)
            ids = _as_ids(context + continuation, index)
        else:
            first = self._part(index, context, leading=True)
            ids = np.concatenate([first, self._part(index, continuation, leading=False)])
            start = len(first)
        if start == 0 and len(ids):
            before = [self._empty_token(index)] if isinstance(context, str) or not self.leading else self.leading
            ids, start = np.concatenate([np.array(before, dtype=np.int32), ids]), len(before)
        return Encoded(ids, start)

    def _part(self, index: int, part: Part, *, leading: bool) -> np.ndarray:
        if not isinstance(part, str):
            return _as_ids(part, index)
        self._need_tokenizer(index)
        return np.array((self.leading if leading else []) + self._alone(self.clean(part)), dtype=np.int32)


def _as_ids(values: Any, index: int) -> np.ndarray:
    if isinstance(values, _NO_PARTS) or not hasattr(values, "__len__"):
        raise TypeError(f"requests[{index}] must hold text or lists of token ids, got {shown(values)}")
    if len(values) == 0:
        return NOTHING
    try:
        ids = np.asarray(values)
    except ValueError:
        ids = np.zeros((0, 0))
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        wide = ids.ndim == 1 and ids.dtype.kind == "O" and all(type(value) is int for value in values)
        if not wide:
            raise TypeError(f"requests[{index}] must hold token ids as a flat list of integers, got {shown(values)}")
    if ids.dtype != np.int32 and (ids.min() < -(2**31) or ids.max() >= 2**31):
        raise ValueError(f"requests[{index}] holds a token id outside 32 bits: {max(ids.tolist(), key=abs)}")
    return ids.astype(np.int32, copy=False)


def _is_empty(part: object) -> bool:
    return hasattr(part, "__len__") and not isinstance(part, _NO_PARTS) and len(part) == 0
