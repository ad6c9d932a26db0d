"""Perplexity: how surprising each answer is after its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Columns, Stage, StageSlice

if TYPE_CHECKING:
    from instsel.engine.requests import Request


@dataclass(frozen=True, kw_only=True)
class PerplexityParameters(Parameters):
    """Parameters of `perplexity`: none of its own."""


@dataclass(frozen=True, slots=True)
class PerplexityResult(ResultTable):
    """The perplexity of each answer, in the order given; NaN where `status` is not "ok".

    mean_logprob  float64 [n], nats a token, of the answer after its prompt
    sum_logprob   float64 [n], nats
    perplexity    float64 [n], `exp(-mean_logprob)`
    num_tokens    int64 [n], tokens of the answer
    is_greedy     bool [n], every token of the answer was the model's first choice
    status        str [n], one of `instsel.engine.results.STATUSES`
    """

    mean_logprob: np.ndarray
    sum_logprob: np.ndarray
    perplexity: np.ndarray
    num_tokens: np.ndarray
    is_greedy: np.ndarray
    status: np.ndarray
    template: str
    stats: ScoreStats


def _requests(part: StageSlice[PerplexityParameters]) -> list[Request]:
    return [part.request(row) for row in part.rows]


def _compute(part: StageSlice[PerplexityParameters]) -> Columns:
    batch = part.score(_requests(part))
    with np.errstate(over="ignore"):
        perplexity = np.exp(-batch.mean_logprob)
    return {
        "mean_logprob": batch.mean_logprob,
        "sum_logprob": batch.sum_logprob,
        "perplexity": np.where(np.isfinite(perplexity), perplexity, np.nan),
        "num_tokens": batch.num_tokens,
        "is_greedy": batch.is_greedy,
        "status": batch.status,
    }


@method(
    "perplexity",
    help="perplexity and log-probability of each answer after its prompt",
    parameters=PerplexityParameters,
    stages=(Stage("perplexity", _compute, requests=_requests, slice_rows=1024),),
    score="mean_logprob",
)
def perplexity(outcome: Outcome[PerplexityParameters]) -> PerplexityResult:
    """Perplexity of each example's answer after its prompt, `PPL(y|x) = exp(-mean_t log p(y_t | x, y_<t))`.

    {parameters}

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> instsel.perplexity(scorer, [lily]).perplexity.round(2).tolist()  # doctest: +SKIP
    [1.93]
    """
    return outcome.result(PerplexityResult)
