"""Instruction-following difficulty: how much of an answer's uncertainty is left when its prompt is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.parameters import Parameters, parameter
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure
from instsel.methods.turn_requests import answers_alone

if TYPE_CHECKING:
    from instsel.engine.requests import Request

KINDS = ("ppl", "loss")


@dataclass(frozen=True, kw_only=True)
class DifficultyParameters(Parameters):
    """Parameters of `ifd`."""

    kind: str = parameter("ppl", "ratio of perplexities or of losses", choices=KINDS)


@dataclass(frozen=True, slots=True)
class DifficultyResult(ResultTable):
    """Difficulty of each example, in the order given; NaN where `status` is not "ok".

    direct       float64 [n], nats a token: mean log-probability of the answer alone, after BOS (or EOS)
    conditional  float64 [n], nats a token: mean log-probability of the answer after its prompt
    ifd          float64 [n], as `kind` says
    num_tokens   int64 [n], tokens of the answer after its prompt
    status       str [n], one of `instsel.engine.results.STATUSES`
    """

    direct: np.ndarray
    conditional: np.ndarray
    ifd: np.ndarray
    num_tokens: np.ndarray
    status: np.ndarray
    kind: str
    template: str
    stats: ScoreStats


def difficulty_requests(part: StageSlice) -> list[Request]:
    """The answers alone, then the answers after their prompts."""
    prompted = [part.request(row) for row in part.rows]
    return [*answers_alone(prompted), *prompted]


def difficulty_columns(part: StageSlice, kind: str = "ppl") -> Columns:
    """The columns direct, conditional, ifd, num_tokens and status."""
    batch = part.score(difficulty_requests(part))
    direct, conditional = np.split(batch.mean_logprob, 2)
    status = first_failure(*np.split(batch.status, 2)[::-1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        value = np.exp(direct - conditional) if kind == "ppl" else conditional / direct
    status = np.where((status == "ok") & ~np.isfinite(value), "nonfinite", status)
    good = status == "ok"
    return {
        "direct": np.where(good, direct, np.nan),
        "conditional": np.where(good, conditional, np.nan),
        "ifd": np.where(good, value, np.nan),
        "num_tokens": batch.num_tokens[len(part.rows) :],
        "status": status,
    }


def _compute(part: StageSlice[DifficultyParameters]) -> Columns:
    return difficulty_columns(part, part.parameters.kind)


@method(
    "ifd",
    help="instruction-following difficulty",
    parameters=DifficultyParameters,
    stages=(Stage("ifd", _compute, requests=difficulty_requests, slice_rows=1024),),
    score="ifd",
)
def ifd(outcome: Outcome[DifficultyParameters]) -> DifficultyResult:
    """Instruction-following difficulty (IFD) of examples.

        kind="ppl":   PPL(y|x) / PPL(y) = exp(direct - conditional)      (Superfiltering, wICI)
        kind="loss":  mean loss(y|x) / mean loss(y) = conditional / direct      (Cherry LLM)

    Both are published as IFD, and they rank differently. 1 means that the prompt does not help.

    {parameters}

    An answer of nothing but white space has the status "empty_target", an example longer than `max_length` has
    "too_long".

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2402.00530 ("ppl"), arXiv 2308.12032 ("loss").

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> nothing = {"instruction": "Say nothing.", "output": ""}
    >>> found = instsel.ifd(scorer, [lily, nothing])  # doctest: +SKIP
    >>> found.ifd.round(3).tolist(), found.status.tolist()  # doctest: +SKIP
    ([0.86, nan], ['ok', 'empty_target'])
    """
    return outcome.result(DifficultyResult)
