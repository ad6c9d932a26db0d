"""Complexity of examples: what decides which member of a cluster becomes a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instsel.engine.requests import token_limit
from instsel.engine.results import ScoreStats
from instsel.engine.scorer import Request, Scorer, score_batch
from instsel.engine.token_progress import ProgressLike
from instsel.methods.chunks import Columns, in_chunks
from instsel.methods.difficulty import CHUNK_ROWS, difficulty_rows, request
from instsel.prompts import embedding_text, encode_pairs
from instsel.records import Example, open_rows

ORDERINGS = ("length", "ifd", "deita")
RATINGS = ("1", "2", "3", "4", "5", "6")
RATING_PROMPT = (
    "How complex is the following request? Answer with a number from 1 (very simple) to 6 (very complex).\n"
    "##Request: {request}\n"
    "##Complexity: "
)

Complexity = str | Callable[[Sequence[Example]], Any] | Sequence[float] | np.ndarray


def complexity_values(
    complexity: Complexity,
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    template: str = "plain",
    max_length: int | None = None,
    complexity_scorer: Scorer | None = None,
    rating_prompt: str = RATING_PROMPT,
    first_row: int = 0,
    progress: ProgressLike = None,
) -> tuple[np.ndarray, ScoreStats]:
    """The complexity of examples, float64 `[n]`, higher is more complex, and what it cost.

    `complexity` is one of

    - "length": tokens of the answer after its prompt;
    - "ifd": the example's own difficulty, `PPL(y|x) / PPL(y)`;
    - "deita": what a rating model expects, `sum_r r * p(r) / sum_r p(r)` over the ratings r = 1 to 6, each a
      continuation of `rating_prompt` with the instruction and input in place of "{request}". The model is
      `complexity_scorer`, or `scorer` itself; the ratings mean what that model was trained to mean by them;
    - numbers `[n]`, or a function from the examples to numbers `[n]`.

    `first_row` is the number of the first example, for an error to name its row.

    An example that could not be measured, or for "length" could not be scored because it has no answer or does not
    fit `max_length`, has NaN: below every number.

    Raises ValueError or TypeError naming `complexity` where it is none of these.

    Source of the ratings: DEITA, arXiv 2312.15685.
    """
    check_complexity(complexity, len(examples))
    if not isinstance(complexity, str):
        values = complexity(examples) if callable(complexity) else complexity
        return given_complexity(values, len(examples)), ScoreStats()
    rater = complexity_scorer or scorer

    def compute(rows: range, progress: ProgressLike) -> tuple[Columns, ScoreStats]:
        part = examples[rows.start : rows.stop]
        if complexity == "length":
            return {"complexity": _lengths(scorer, part, template, max_length, first_row + rows.start)}, ScoreStats()
        if complexity == "deita":
            return rating_rows(rater, part, rating_prompt=rating_prompt, progress=progress)
        numbered = dict(enumerate(part, first_row + rows.start))
        columns, stats = difficulty_rows(
            scorer, numbered, numbered, template=template, max_length=max_length, progress=progress
        )
        return {"complexity": columns["ifd"]}, stats

    columns, stats = in_chunks(compute, len(examples), CHUNK_ROWS, progress)
    return columns["complexity"], stats


def named_complexity(name: str, rows: Any) -> str | np.ndarray:
    """An ordering of `complexity_values` by its name, or the column of that name of rows as numbers.

    Raises ValueError naming the columns where it is neither.
    """
    if name in ORDERINGS:
        return name
    names, batches = open_rows(rows)
    if name not in names:
        raise ValueError(
            f"complexity must be one of {', '.join(ORDERINGS)}, numbers or a column, got {name!r}; "
            f"the columns are {', '.join(names) or 'none'}"
        )
    values = [row.get(name) for batch in batches for row in batch]
    return given_complexity(values, len(values))


def check_complexity(complexity: Complexity, count: int) -> None:
    """Raise what `complexity_values` would, as far as that can be said without a model."""
    if isinstance(complexity, str):
        if complexity not in ORDERINGS:
            raise ValueError(f"complexity must be one of {', '.join(ORDERINGS)} or numbers, got {complexity!r}")
    elif not callable(complexity):
        given_complexity(complexity, count)


def given_complexity(values: Any, count: int) -> np.ndarray:
    """Numbers as float64 `[n]`; raises ValueError where they are not numbers or not one for each example."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"complexity must be numbers [{count}], got {type(values).__name__} of other things") from None
    if array.shape != (count,):
        raise ValueError(f"complexity must be numbers [{count}], one for each example, got shape {list(array.shape)}")
    return array


def rating_rows(
    scorer: Scorer,
    examples: Sequence[Example],
    *,
    rating_prompt: str = RATING_PROMPT,
    progress: ProgressLike = None,
) -> tuple[Columns, ScoreStats]:
    """The column complexity: the expected rating of each example, NaN where it cannot be scored; and what it cost."""
    if "{request}" not in rating_prompt:
        raise ValueError(f'rating_prompt must contain "{{request}}", got {rating_prompt!r}')
    requests: list[Request] = [
        (rating_prompt.replace("{request}", embedding_text(example)), rating)
        for example in examples
        for rating in RATINGS
    ]
    batch = score_batch(scorer, requests, progress=progress)
    logprob = batch.sum_logprob.reshape(len(examples), len(RATINGS))
    usable = np.isfinite(logprob).all(1)
    logprob = np.where(usable[:, None], logprob, 0.0)
    share = np.exp(logprob - logprob.max(1, keepdims=True, initial=-np.inf))
    expected = (share * np.arange(1, len(RATINGS) + 1)).sum(1) / share.sum(1)
    return {"complexity": np.where(usable, expected, np.nan)}, batch.stats


def _lengths(
    scorer: Scorer, examples: Sequence[Example], template: str, max_length: int | None, first_row: int
) -> np.ndarray:
    limit = token_limit(scorer.model, max_length)
    pairs = [request(scorer, example, template, row=row) for row, example in enumerate(examples, first_row)]
    encoded = encode_pairs(scorer.tokenizer, pairs, max_tokens=limit)
    return np.array(
        [
            np.nan if not answer or one.too_long or (limit is not None and len(one.ids) > limit) else length
            for one, (_, answer) in zip(encoded, pairs, strict=True)
            for length in [len(one.ids) - one.start]
        ],
        np.float64,
    )
