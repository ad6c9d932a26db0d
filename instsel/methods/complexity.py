"""Complexity of examples: what decides which member of a cluster becomes a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.methods.ifd import difficulty_columns, difficulty_requests
from instsel.methods.stages import Columns, Slice
from instsel.prompts import embedding_text, encode_pairs

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer import Scorer

ORDERINGS = ("length", "ifd", "deita")
RATINGS = ("1", "2", "3", "4", "5", "6")
RATING_PROMPT = (
    "How complex is the following request? Answer with a number from 1 (very simple) to 6 (very complex).\n"
    "##Request: {request}\n"
    "##Complexity: "
)


def complexity_columns(
    part: Slice[Any], complexity: Any, rater: Scorer | None = None, rating_prompt: str = RATING_PROMPT
) -> Columns:
    """The column complexity of a slice, float64 `[r]`, higher is more complex.

    `complexity` is one of

    - "length": tokens of the answer after its prompt;
    - "ifd": the example's own difficulty, `PPL(y|x) / PPL(y)`;
    - "deita": what a rating model expects, `sum_r r * p(r) / sum_r p(r)` over the ratings r = 1 to 6, each a
      continuation of `rating_prompt` with the instruction and input in place of "{request}". The model is `rater`, or
      the slice's own scorer; the ratings mean what that model was trained to mean by them;
    - numbers over all rows.

    An example that could not be measured, or for "length" could not be scored because it has no answer or does not
    fit, has NaN: below every number.

    Source of the ratings: DEITA, arXiv 2312.15685.
    """
    if not isinstance(complexity, str):
        return {"complexity": np.asarray(complexity, np.float64)[part.rows.start : part.rows.stop]}
    if complexity == "length":
        return {"complexity": _lengths(part)}
    if complexity == "ifd":
        return {"complexity": difficulty_columns(part)["ifd"]}
    return {"complexity": expected_ratings(part, rating_prompt, rater)}


def complexity_requests(part: Slice[Any], complexity: Any, rating_prompt: str = RATING_PROMPT) -> list[Request]:
    """What `complexity_columns` will score."""
    if not isinstance(complexity, str) or complexity == "length":
        return []
    return difficulty_requests(part) if complexity == "ifd" else _rating_requests(part, rating_prompt)


def expected_ratings(part: Slice[Any], rating_prompt: str, rater: Scorer | None = None) -> np.ndarray:
    """The expected rating of each example, float64 `[r]`, NaN where it cannot be scored."""
    batch = part.score(_rating_requests(part, rating_prompt), scorer=rater)
    logprob = batch.sum_logprob.reshape(len(part.rows), len(RATINGS))
    usable = np.isfinite(logprob).all(1)
    logprob = np.where(usable[:, None], logprob, 0.0)
    share = np.exp(logprob - logprob.max(1, keepdims=True, initial=-np.inf))
    expected = (share * np.arange(1, len(RATINGS) + 1)).sum(1) / share.sum(1)
    return np.where(usable, expected, np.nan)


def check_rating_prompt(rating_prompt: Any) -> None:
    """Raise ValueError unless there is a place for the example."""
    if not isinstance(rating_prompt, str) or "{request}" not in rating_prompt:
        raise ValueError(f'rating_prompt must contain "{{request}}", got {rating_prompt!r}')


def _rating_requests(part: Slice[Any], rating_prompt: str) -> list[Request]:
    return [
        (rating_prompt.replace("{request}", embedding_text(part.examples[row])), rating)
        for row in part.rows
        for rating in RATINGS
    ]


def _lengths(part: Slice[Any]) -> np.ndarray:
    limit = part.token_limit
    pairs = [part.request(row) for row in part.rows]
    encoded = encode_pairs(part.scorer.tokenizer, pairs, max_tokens=limit)
    return np.array(
        [
            np.nan if not answer or one.too_long or (limit is not None and len(one.ids) > limit) else length
            for one, (_, answer) in zip(encoded, pairs, strict=True)
            for length in [len(one.ids) - one.start]
        ],
        np.float64,
    )
