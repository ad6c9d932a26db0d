"""GRAPE: of several answers to one instruction, the one that the base model finds likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.parameters import Parameters, parameter
from instsel.methods.stages import Columns, RefusedRequest, Stage, StageSlice
from instsel.methods.turn_requests import flat, regrouped
from instsel.prompts import encode_pairs
from instsel.records.repetition import repeated_share

if TYPE_CHECKING:
    from instsel.engine.requests import Request

NORMALIZATIONS = ("mean", "sum")


@dataclass(frozen=True, kw_only=True)
class GrapeParameters(Parameters):
    """Parameters of `grape`."""

    normalize: str = parameter("mean", "log-probability a token, or of the whole answer", choices=NORMALIZATIONS)
    include_eos: bool = parameter(False, "whether the tokenizer's EOS ends each answer and is scored with it")
    max_repetition: float = parameter(
        1.0,
        "the share of repeated 4-grams above which an answer is chosen only where its group has no other",
        minimum=0.0,
        maximum=1.0,
    )


@dataclass(frozen=True, slots=True)
class GrapeResult(ResultTable):
    """The best answer of each group, in the order given.

    best    int64 [g], the place of the best answer within its group, -1 where `status` is not "ok"
    scores  a float64 array a group, nats (nats a token for "mean"), one number an answer, NaN where it has none
    status  str [g], "ok" where at least one answer was scored; otherwise the status of the group's first answer, and
            "empty_target" where there is none
    """

    best: np.ndarray
    scores: list[np.ndarray]
    status: np.ndarray
    normalize: str
    template: str
    include_eos: bool
    stats: ScoreStats


def _compute(part: StageSlice[GrapeParameters]) -> Columns:
    batch = part.score(_requests(part))
    sizes = [len(part.examples[row].responses) for row in part.rows]
    stop = np.cumsum(sizes, dtype=np.int64)
    status = np.full(len(part.rows), "empty_target", "<U13")
    scores = np.empty(len(part.rows), object)
    limit = part.parameters.max_repetition
    best = np.full(len(part.rows), -1, np.int64)
    each = batch.mean_logprob if part.parameters.normalize == "mean" else batch.sum_logprob
    for i, (low, high) in enumerate(zip(stop - sizes, stop, strict=True)):
        scores[i] = each[low:high]
        if high > low:
            found = batch.status[low:high]
            status[i] = "ok" if (found == "ok").any() else found[0]
            answers = part.examples[part.rows[i]].responses
            best[i] = best_of(scores[i], [repeated_share(one) > limit for one in answers] if limit < 1 else None)
    return {"best": best, "scores": scores, "status": status}


def _requests(part: StageSlice[GrapeParameters]) -> list[Request]:
    """All answers of the groups after their prompts.

    Raises ValueError where EOS is to be included and the tokenizer has none, or a chat template refuses a row.
    """
    requests: list[Request] = [
        part.request_of(one, row=row) for row in part.rows for one in getattr(part.examples[row], "examples", ())
    ]
    if not part.parameters.include_eos:
        return requests
    tokenizer = part.scorer.tokenizer
    end = getattr(tokenizer, "eos_token_id", None)
    if end is None:
        raise ValueError("include_eos needs a tokenizer with an EOS token, and this one has none")
    # As ids, so that no tokenizer can make anything else of the token's text. What is to be scored stays joint.
    each = flat(requests)
    encoded = encode_pairs(tokenizer, each, max_tokens=part.token_limit)
    for i, one in enumerate(encoded):
        if isinstance(each[i], RefusedRequest):
            continue
        if not each[i][1]:
            each[i] = ("", "")
        elif not one.too_long:  # what is surely too long stays text, of which `score_batch` finds the same
            each[i] = (one.ids[: one.start].tolist(), [*one.ids[one.start :].tolist(), int(end)])
    return regrouped(requests, each)


def best_of(scores: np.ndarray, repeated: Sequence[bool] | None = None) -> int:
    """The place of a group's best answer, -1 where none was scored; ties by place.

    One that repeats itself is chosen only where no other was scored.

    >>> best_of(np.array([-2.0, -1.0, -1.0])), best_of(np.array([np.nan] * 3)), best_of(np.array([]))
    (1, -1, -1)
    >>> best_of(np.array([-2.0, -1.0, np.nan]), [False, True, False])
    0
    """
    scored = np.isfinite(scores)
    preferred = scored if repeated is None else scored & ~np.array(repeated, bool)
    among = preferred if preferred.any() else scored
    return int(np.argmax(np.where(among, scores, -np.inf))) if among.any() else -1


@method(
    "grape",
    help="of several answers, the one that the model finds likeliest",
    parameters=GrapeParameters,
    stages=(Stage("grape", _compute, requests=_requests, slice_rows=512),),
    rows="group",
    score="best",
)
def grape(outcome: Outcome[GrapeParameters]) -> GrapeResult:
    """Choose of each group the answer with the highest log-probability after its prompt; ties by place.

        normalize="mean":  score(y) = mean_t log p(y_t | x, y_<t)
        normalize="sum":   score(y) = sum_t log p(y_t | x, y_<t)      (the first version of the paper)

    A group is a dict with `instruction`, `input` and `candidates: [{"response": ...}, ...]`, or a `Group`.

    {parameters}

    An answer is never cut; one that does not fit has no score and is not chosen. Likelihood favours answers that
    repeat themselves: with `max_repetition` below 1 one of which a higher share of the 4-grams of words stands in it
    before is chosen only where its group has no other that was scored.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2502.04194.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> group = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...          "candidates": [{"response": "The committee adjourned."},
    ...                         {"response": "She loved to play outside in the park."}]}
    >>> found = instsel.grape(scorer, [group])  # doctest: +SKIP
    >>> found.best.tolist(), found.scores[0].round(2).tolist()  # doctest: +SKIP
    ([1], [-4.75, -0.66])
    """
    return outcome.result(GrapeResult, scores=list(outcome.columns["scores"]))
