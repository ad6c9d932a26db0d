"""Complexity of examples: what decides which member of a cluster becomes a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from instsel.methods.ifd import difficulty_columns, difficulty_requests
from instsel.methods.rating_prompts import QUALITY_PROMPT, RATING_PROMPT
from instsel.methods.ratings import expected_rating, rating_logprobs, rating_requests
from instsel.methods.stages import Columns, StageSlice
from instsel.methods.turn_requests import TurnRequests, flat, regrouped
from instsel.prompts import encode_pairs

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol

ORDERINGS = ("length", "ifd", "deita", "quality", "compqual")
RATED = {"deita": ("complexity",), "quality": ("quality",), "compqual": ("complexity", "quality")}
LEVELS = 6


def complexity_columns(
    part: StageSlice,
    complexity: object,
    rater: ScorerProtocol | None = None,
    rating_prompt: str = RATING_PROMPT,
    quality_rater: ScorerProtocol | None = None,
    quality_prompt: str = QUALITY_PROMPT,
) -> Columns:
    """The column complexity of a slice, float64 `[r]`, higher is more complex.

    `complexity` is one of

    - "length": tokens of the answer after its prompt;
    - "ifd": the example's own difficulty, `PPL(y|x) / PPL(y)`;
    - "deita": what a rating model expects, `sum_r r * p(r) / sum_r p(r)` over the ratings r = 1 to 6, each a
      continuation of `rating_prompt` with the instruction and input in place of "{request}". The model is `rater`, or
      the slice's own scorer; the ratings mean what that model was trained to mean by them;
    - "quality": the same of `quality_prompt`, with the answer in place of "{response}", by `quality_rater`;
    - "compqual": the sum of the two ratings;
    - numbers over all rows.

    An example that could not be measured, or for "length" could not be scored because it has no answer or does not
    fit, has NaN: below every number.

    Source of the ratings: DEITA, arXiv 2312.15685; of their use as orderings, and of the sum: the repository
    trust-nlp/SyntheticData-Curator.
    """
    if not isinstance(complexity, str):
        return {"complexity": np.asarray(complexity, np.float64)[part.rows.start : part.rows.stop]}
    if complexity == "length":
        return {"complexity": _lengths(part)}
    if complexity == "ifd":
        return {"complexity": difficulty_columns(part)["ifd"]}
    raters = {"complexity": (rating_prompt, rater), "quality": (quality_prompt, quality_rater)}
    rated = [expected_ratings(part, *raters[one])[0] for one in RATED[complexity]]
    return {"complexity": np.sum(rated, axis=0)}


def complexity_requests(
    part: StageSlice, complexity: object, rating_prompt: str = RATING_PROMPT, quality_prompt: str = QUALITY_PROMPT
) -> list[Request]:
    """What `complexity_columns` will score."""
    if not isinstance(complexity, str) or complexity == "length":
        return []
    if complexity == "ifd":
        return difficulty_requests(part)
    prompts = {"complexity": rating_prompt, "quality": quality_prompt}
    return rating_requests(part, [prompts[one] for one in RATED[complexity]], LEVELS)


def expected_ratings(
    part: StageSlice, prompt: str, rater: ScorerProtocol | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rating from 1 to 6 that the model expects of each example, float64 `[r]`, and statuses, str `[r]`."""
    logprob, status = rating_logprobs(part, [prompt], LEVELS, rater)
    return expected_rating(logprob)[:, 0], status[:, 0]


def _lengths(part: StageSlice) -> np.ndarray:
    limit = part.token_limit
    requests = [part.request(row) for row in part.rows]
    pairs = flat(requests)
    encoded = encode_pairs(part.scorer.tokenizer, pairs, max_tokens=limit)
    each = [
        np.nan if not answer or one.too_long or (limit is not None and len(one.ids) > limit) else length
        for one, (_, answer) in zip(encoded, pairs, strict=True)
        for length in [len(one.ids) - one.start]
    ]
    grouped = regrouped(requests, each)
    return np.array(
        [(sum(one) if one else np.nan) if isinstance(one, TurnRequests) else one for one in grouped],
        np.float64,
    )
