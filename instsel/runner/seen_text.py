"""Requests as a model would see them: how many tokens, and their text with the scored tokens apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.model import CausalModel
from instsel.engine.requests import prepare
from instsel.engine.scorer_protocol import ScorerProtocol
from instsel.methods.turn_requests import TurnRequests, flat
from instsel.prompts import Encoded, encode_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from instsel.engine.requests import Request


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of one answer with its prompt, of several turns the longest's, those scored, and its status."""

    length: float
    scored: float
    status: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text, and whether its tokens are scored."""

    text: str
    is_scored: bool


@dataclass(frozen=True, slots=True)
class SeenRow:
    """A row's first answer as sequences of pieces (one, where its turns stand in one text), and how many it has."""

    row: int
    place: str
    answers: int
    tokens: int
    scored: int
    sequences: list[list[Piece]]


def count_tokens(
    requests: Sequence[object], scorer: ScorerProtocol, outline: CausalModel, max_length: int | None
) -> list[TokenCount]:
    """The tokens of each request; those of a conversation's turns as one. `outline` is the scorer's, made once."""
    prepared = prepare(scorer, outline, flat(requests), max_length)
    is_read = (prepared.status != "too_long") | (prepared.lengths > 0)
    lengths, scored = (np.where(is_read, one, np.inf) for one in (prepared.lengths, prepared.num_tokens))
    found, start = [], 0
    for request in requests:
        end = start + (len(request) if isinstance(request, TurnRequests) else 1)
        failed = [str(status) for status in prepared.status[start:end] if status != "ok"]
        status = failed[0] if failed else "ok" if end > start else "empty_target"
        found.append(TokenCount(lengths[start:end].max(initial=0), scored[start:end].sum(), status))
        start = end
    return found


def seen_row(
    row: int, place: str, requests: Sequence[Request], tokenizer: PreTrainedTokenizerBase, outline: CausalModel
) -> SeenRow:
    """A row of which something can be scored; `requests` are its answers', of which the first such one is shown."""
    encoded = [encode_pairs(tokenizer, flat([one]), empty_context_token=outline.first_token()) for one in requests]
    turns = next(one for one in encoded if any(len(turn.ids) > turn.start for turn in one))
    sequences = _joined(turns)
    return SeenRow(
        row,
        place,
        len(requests),
        max(len(turn.ids) for turn in turns),
        sum(len(turn.ids) - turn.start for turn in turns),
        [pieces_of(ids.tolist(), spans, tokenizer) for ids, spans in sequences],
    )


def _joined(turns: Sequence[Encoded]) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Sequences and their scored spans; a turn that a later one's sequence begins with is a span of that."""
    found: list[tuple[np.ndarray, list[tuple[int, int]]]] = []
    for turn in reversed(turns):
        size, own = len(turn.ids), (turn.start, len(turn.ids))
        whole = next((one for one in found if (one[0][:size] == turn.ids).all() and len(one[0]) >= size), None)
        if whole is None:
            found.append((turn.ids, [own]))
        else:
            whole[1].append(own)
    return [(ids, sorted(spans)) for ids, spans in reversed(found)]


def pieces_of(ids: list[int], spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The text of tokens in pieces, of which those of `spans` are scored."""
    cuts = [0, *(cut for span in spans for cut in span), len(ids)]
    read = [_decoded(ids[:cut], tokenizer) for cut in cuts]
    pieces = []
    for number in range(len(cuts) - 1):
        before, text = read[number], read[number + 1]
        # Some tokenizers drop the blank before a first token: a piece is what it adds to the text before it.
        own = (
            text[len(before) :]
            if text.startswith(before)
            else _decoded(ids[cuts[number] : cuts[number + 1]], tokenizer)
        )
        pieces.append(Piece(own, number % 2 == 1))
    return [piece for piece in pieces if piece.text]


def _decoded(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
