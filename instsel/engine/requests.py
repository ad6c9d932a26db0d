"""Requests as token ids, with a status for each that cannot be scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from instsel.engine.model import CausalModel
from instsel.planning.prefix_tree import concatenate
from instsel.prompts import encode_pairs
from instsel.prompts.request_pairs import request_pair
from instsel.records import open_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Request = tuple[str | Sequence[int], str | Sequence[int]]
# Pairs, dicts of prompt and completion (or context and continuation), or a table of two such columns; see `prepare`.
Requests = Iterable[Request | Mapping[str, Any]] | Any


class HoldsTokenizer(Protocol):
    """What has a tokenizer, or None in its place."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None: ...


@dataclass(frozen=True, slots=True)
class PreparedRequests:
    """Sequences of token ids one after another, and from where on each is scored."""

    tokens: np.ndarray  # int32 [total]
    offsets: np.ndarray  # int64 [n + 1]
    first_scored: np.ndarray  # int64 [n], 0 where nothing is to be scored
    num_tokens: np.ndarray  # int64 [n], tokens of the continuation
    status: np.ndarray  # str [n]

    @classmethod
    def from_ids(cls, sequences: Sequence[np.ndarray], first_scored: Sequence[int]) -> PreparedRequests:
        """Sequences that are all to be scored, from the given positions on (0 for not at all)."""
        tokens, offsets = concatenate(sequences)
        first = np.asarray(first_scored, np.int64)
        status = np.full(len(sequences), "ok", dtype="<U13")
        return cls(tokens, offsets, first, np.diff(offsets) - first, status)

    def __len__(self) -> int:
        return len(self.status)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence."""
        return np.diff(self.offsets)

    @property
    def tokens_unshared(self) -> int:
        """Tokens that one forward a sequence, without its last token, would take."""
        return int((self.lengths - 1)[self.first_scored > 0].sum())


def token_limit(model: CausalModel, max_length: int | None) -> int | None:
    """Longest sequence in tokens: what was asked for and at most the model's context; None where nothing limits it."""
    if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2):
        raise ValueError(f"max_length: expected an integer of at least 2, got {max_length!r}")
    return min((length for length in (max_length, model.max_length) if length is not None), default=None)


def prepare(scorer: HoldsTokenizer, model: CausalModel, requests: Requests, max_length: int | None) -> PreparedRequests:
    """Token ids of all requests; those with nothing to score or too long for the model get their status.

    The scorer's tokenizer is loaded only where there is text, or an empty context for a token of its own.
    """
    limit = token_limit(model, max_length)
    pairs = _listed(requests)
    tokenizer = scorer.tokenizer if any(map(_needs_tokenizer, pairs, range(len(pairs)))) else None
    encoded = encode_pairs(tokenizer, pairs, empty_context_token=model.first_token(), max_tokens=limit)
    prepared = PreparedRequests.from_ids([e.ids for e in encoded], [e.start for e in encoded])
    lengths, status = prepared.lengths, prepared.status
    status[prepared.num_tokens == 0] = "empty_target"
    status[np.array([e.too_long for e in encoded], dtype=bool)] = "too_long"  # not even tokenised
    if limit is not None:
        status[(lengths > limit) & (status == "ok")] = "too_long"
    _check_ids(prepared, model)
    prepared.first_scored[status != "ok"] = 0
    return prepared


def _needs_tokenizer(request: object, index: int) -> bool:
    context, continuation = request_pair(request, index)
    return (
        isinstance(context, str) or isinstance(continuation, str) or not (hasattr(context, "__len__") and len(context))
    )


def _listed(requests: Requests) -> list[Any]:
    """Requests one by one, out of a table as its rows."""
    if not isinstance(requests, (list, tuple)) and (table := open_table(requests)) is not None:
        return [row for batch in table[1] for row in batch]
    if isinstance(requests, (str, bytes, Mapping, Set)) or not isinstance(requests, Iterable):
        raise TypeError(f"requests: expected a list of (context, continuation) pairs, got {type(requests).__name__}")
    return list(requests)


def _check_ids(prepared: PreparedRequests, model: CausalModel) -> None:
    """Token ids that the model does not have are an error, not a score."""
    known = min(model.input_vocabulary, model.vocabulary)
    wrong = np.flatnonzero((prepared.tokens < 0) | (prepared.tokens >= known))
    if len(wrong):
        request = int(np.searchsorted(prepared.offsets, wrong[0], side="right")) - 1
        raise ValueError(
            f"requests[{request}]: expected token ids from 0 to {known - 1}, the model's vocabulary, "
            f"got {int(prepared.tokens[wrong[0]])}"
        )
