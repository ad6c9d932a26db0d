"""NUGGETS: each example as a one-shot demonstration, judged by what it does for the answers of anchor tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.anchor_stages import ANCHOR_STAGES, AnchorParameters, anchor_count, anchor_rows, anchors_of
from instsel.methods.definition import Outcome, method
from instsel.methods.pairs import pair_scores, pair_statuses, row_statuses, same_texts
from instsel.methods.parameters import parameter
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure
from instsel.records.json_types import JsonObject

if TYPE_CHECKING:
    from instsel.engine.requests import Request

MEASURES = ("wins", "gain", "ratio")


@dataclass(frozen=True, kw_only=True)
class NuggetsParameters(AnchorParameters):
    """Parameters of `nuggets`."""

    shows_demonstrations: ClassVar[bool] = True

    measure: str = parameter("wins", "how an anchor's two log-probabilities are compared", choices=MEASURES)


@dataclass(frozen=True, slots=True)
class AnchorResult(ResultTable):
    """What each example does for the anchors' answers, in the order given; n examples, m anchors.

    score        float64 [n], as `measure` says, NaN where `status` is not "ok"
    zero_shot    float64 [m], nats a token: mean log-probability of the anchor's answer after its own prompt
    one_shot     float32 [n, m], the same with the example shown before it; NaN where missing
    num_anchors  int64 [n], anchors that the score is the mean over
    is_anchor    bool [n], the example is itself an anchor, which is left out of its mean
    anchor_rows  int64 [m], the rows that were chosen as anchors; None where anchors were given
    status       str [n], "ok" where at least one anchor was scored
    """

    NOT_COLUMNS: ClassVar[frozenset[str]] = frozenset({"zero_shot", "anchor_rows"})

    score: np.ndarray
    zero_shot: np.ndarray
    one_shot: np.ndarray
    num_anchors: np.ndarray
    is_anchor: np.ndarray
    anchor_rows: np.ndarray | None
    status: np.ndarray
    measure: str
    template: str
    stats: ScoreStats


def _pairs(part: StageSlice[NuggetsParameters]) -> tuple[np.ndarray, np.ndarray, list[Request]]:
    """Statuses `[r, m]` of the pairs as far as they are known, which anchors are the row itself, and the requests.

    A pair has a request where it is "ok": both have an answer, the anchor was scored by itself and is not the row.
    """
    anchors, rows = anchors_of(part), [part.examples[row] for row in part.rows]
    own = same_texts(rows, anchors)
    status = pair_statuses(part.answered[:, None] & ~own)
    alone = part.columns.get("zero_shot_status", np.full(len(anchors), "ok"))  # a plan knows none
    status = first_failure(status, np.broadcast_to(alone, status.shape))
    numbers: list[int | None] = [*anchor_rows(part)] or [None] * len(anchors)
    return status, own, [
        part.request_of(anchors[place], rows[i], row=numbers[place], demonstration_row=part.rows[i])
        for i, place in np.argwhere(status == "ok").tolist()
    ]  # fmt: skip


def _one_shot(part: StageSlice[NuggetsParameters]) -> Columns:
    """One call for all pairs of the rows: each row is the prefix that its anchors share, forwarded once."""
    known, own, requests = _pairs(part)
    one_shot, status = pair_scores(part.score(requests), 0, known)
    score = anchor_score(one_shot, part.columns["zero_shot"], part.parameters.measure)
    of_row = row_statuses(status, known)
    of_row = np.where((of_row == "ok") & ~np.isfinite(score), "nonfinite", of_row)
    return {
        "one_shot": one_shot.astype(np.float32),
        "score": np.where(of_row == "ok", score, np.nan),
        "num_anchors": (status == "ok").sum(1),
        "is_anchor": own.any(1),
        "status": of_row,
    }


def anchor_score(one_shot: np.ndarray, zero_shot: np.ndarray, measure: str) -> np.ndarray:
    """Means float64 `[n]` over the anchors that were scored, from mean log-probabilities `[n, m]` and `[m]`.

    >>> anchor_score(np.array([[-1.0, -4.0], [-3.0, np.nan]]), np.array([-2.0, -2.0]), "wins")
    array([0.5, 0. ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        compared = {"wins": one_shot > zero_shot, "gain": one_shot - zero_shot, "ratio": zero_shot / one_shot}[measure]
        scored = np.isfinite(one_shot) & np.isfinite(zero_shot)
        return np.where(scored, compared, 0.0).sum(1) / scored.sum(1)


def _result(part: StageSlice[NuggetsParameters]) -> Columns:
    return {name: part.columns[name] for name in ("score", "num_anchors", "is_anchor", "status")}


def _requests(part: StageSlice[NuggetsParameters]) -> list[Request]:
    return _pairs(part)[2]


def _findings(outcome: Outcome[NuggetsParameters]) -> JsonObject:
    """How many rows are themselves anchors, and how many anchors the means are over."""
    own, counts = int(outcome.columns["is_anchor"].sum()), outcome.columns["num_anchors"]
    number = anchor_count(outcome.parameters, outcome.count)
    text = f"{number:,}, of which {counts.mean():,.1f} were scored after a row on average"
    if own:
        text += f"; {own:,} rows are anchors themselves, each left out of its own mean"
    return {"anchors": {"anchors": number, "scored": float(counts.mean()), "rows_that_are_anchors": own, "text": text}}


STAGES = (
    *ANCHOR_STAGES,
    Stage(
        "one_shot", _one_shot, reads_whole=("anchors", "zero_shot"), requests=_requests, slice_rows=16,
        needs=lambda part: [*part.rows, *anchor_rows(part)],
    ),
    Stage("nuggets", _result, reads=("one_shot",), whole=True),
)  # fmt: skip


@method(
    "nuggets",
    help="what each example does for anchor tasks, as a demonstration",
    parameters=NuggetsParameters,
    stages=STAGES,
    findings=_findings,
)
def nuggets(outcome: Outcome[NuggetsParameters]) -> AnchorResult:
    """NUGGETS: how each example, shown before anchor tasks as a demonstration, changes their answers' probability.

    With `zero_shot(b)` and `one_shot(a, b)` the mean log-probability of anchor b's answer after its own prompt, and
    after example a and its own prompt:

        measure="wins":   score(a) = share of anchors b with one_shot(a, b) > zero_shot(b)      (the golden score)
        measure="gain":   score(a) = mean over anchors b of one_shot(a, b) - zero_shot(b), nats a token
        measure="ratio":  score(a) = mean over anchors b of zero_shot(b) / one_shot(a, b), losses without and with

    {parameters}

    An anchor that is the example itself (the same texts) is left out of its mean, as is a pair longer than
    `max_length`; `num_anchors` of the result counts what is left. A row is "ok" where at least one anchor was scored;
    otherwise it has the status of its first pair, and "empty_target" where it has no answer to show.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2312.10302; "ratio" is that of Data-Juicer's in-context influence.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> tom = {"instruction": "Once upon a time, there was a boy named Tom.",
    ...        "output": "He loved to play with his toys."}
    >>> ben = {"instruction": "There was a dog named Ben.", "output": "He loved to play in the park."}
    >>> one = {"instruction": "Add 1 and 2.", "output": "3"}
    >>> found = instsel.nuggets(scorer, [lily, one, tom], [tom, ben], measure="gain")  # doctest: +SKIP
    >>> found.score.round(3).tolist(), found.num_anchors.tolist()  # doctest: +SKIP
    ([-0.337, 0.032, -0.217], [2, 2, 1])
    """
    return outcome.result(AnchorResult, anchor_rows=outcome.columns.get("anchor_row"))
