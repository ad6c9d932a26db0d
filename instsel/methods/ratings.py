"""Ratings by a model: how likely it finds each of the digits 1 to `levels` after a prompt that shows an example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instsel.methods.stages import StageSlice
from instsel.prompts import embedding_text, encode_pairs
from instsel.records import Unreadable

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol

_PLACES = re.compile(r"\{request\}|\{response\}")


def rating_requests(part: StageSlice, prompts: Sequence[str], levels: int) -> list[Request]:
    """For each row, for each prompt, each digit after it: `[r, K, levels]`, row by row."""
    requests: list[Request] = []
    for row in part.rows:
        example = part.examples[row]
        if isinstance(example, Unreadable):
            requests.extend([("", "")] * (len(prompts) * levels))
            continue
        text = {"{request}": embedding_text(example), "{response}": example.response}
        for prompt in prompts:
            # In one pass: an example that itself says "{response}" stays as it is.
            shown = _PLACES.sub(lambda found, text=text: text[found[0]], prompt)  # type: ignore[misc]
            requests.extend((shown, str(digit)) for digit in range(1, levels + 1))
    return requests


def rating_logprobs(
    part: StageSlice, prompts: Sequence[str], levels: int, rater: ScorerProtocol | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the digits, float64 `[r, K, levels]`, and the statuses of the prompts, str `[r, K]`.

    The model is `rater`, or the slice's own scorer. All digits of a prompt come from one row of its forward.

    Raises ValueError naming the digit where the tokenizer does not write each of them as one token of its own.
    """
    batch = part.score(_one_token_each(part, rating_requests(part, prompts, levels), levels, rater), scorer=rater)
    shape = (len(part.rows), len(prompts), levels)
    logprob, status = batch.sum_logprob.reshape(shape), batch.status.reshape(shape)
    found = status[..., 0].copy()
    for level in range(1, levels):
        found = np.where(found == "ok", status[..., level], found)
    return np.where((found == "ok")[..., None], logprob, np.nan), found


def shares(logprob: np.ndarray) -> np.ndarray:
    """Probabilities of the digits among themselves: `p(r) / sum_r p(r)` along the last axis."""
    share = np.exp(logprob - logprob.max(-1, keepdims=True))
    return np.asarray(share / share.sum(-1, keepdims=True))


def expected_rating(logprob: np.ndarray) -> np.ndarray:
    """The rating that the model expects, `sum_r r * p(r) / sum_r p(r)`, along the last axis.

    >>> expected_rating(np.log([[0.1, 0.1, 0.2], [0.2, 0.1, 0.1]])).round(3).tolist()
    [2.25, 1.75]
    """
    return np.asarray((shares(logprob) * np.arange(1, logprob.shape[-1] + 1)).sum(-1))


def _one_token_each(
    part: StageSlice, requests: list[Request], levels: int, rater: ScorerProtocol | None
) -> list[Request]:
    """The requests as token ids, a prompt's digits after the same ids; what is too long stays text."""
    from instsel.engine.requests import token_limit

    scorer = part.scorer if rater is None else rater
    limit = part.token_limit if rater is None else token_limit(scorer.outline, None)
    encoded = encode_pairs(scorer.tokenizer, requests, max_tokens=limit)
    out = list(requests)
    for first in range(0, len(requests), levels):
        if not requests[first][1] or any(one.too_long for one in encoded[first : first + levels]):
            continue
        before = encoded[first].ids[: encoded[first].start].tolist()
        seen: dict[int, str] = {}
        for i in range(first, first + levels):
            ids, digit = encoded[i].ids.tolist(), str(requests[i][1])
            own = ids[encoded[i].start :]
            end = f"after the prompt that ends in {str(requests[i][0])[-20:]!r}"
            if len(own) != 1:
                raise ValueError(f"a rating must be one token, and {end} this tokenizer makes {len(own)} of {digit!r}")
            if own[0] in seen:
                raise ValueError(
                    f"each rating must be a token of its own, and {end} this tokenizer gives {digit!r} the token of "
                    f"{seen[own[0]]!r}"
                )
            if ids[: encoded[i].start] != before:
                raise ValueError(
                    f"ratings must follow the same tokens, and {end} this tokenizer reads the prompt otherwise before "
                    f"{digit!r} than before '1'; end the prompt in a line feed"
                )
            seen[own[0]] = digit
            out[i] = (before, own)
    return out
