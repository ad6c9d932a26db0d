"""MIWV: how much worse an example's answer is predicted when its nearest neighbour is shown first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.neighbor_stages import NEIGHBOR_STAGES, NeighborParameters, rows_and_neighbors
from instsel.methods.pairs import pair_scores, pair_statuses
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure

if TYPE_CHECKING:
    from instsel.engine.requests import Request


@dataclass(frozen=True, slots=True)
class NeighborResult(ResultTable):
    """MIWV of each example, in the order given; NaN where `status` is not "ok".

    score        float64 [n], nats a token: `conditional - one_shot`, the loss after the neighbour minus without
    conditional  float64 [n], nats a token: mean log-probability of the answer after its prompt
    one_shot     float64 [n], nats a token: the same with the neighbour and its answer before the prompt
    neighbor     int64 [n], the row that was shown, -1 where there is none
    similarity   float64 [n], cosine to it; NaN where there is none, or where neighbours were given without `embedder`
    status       str [n], one of `instsel.engine.results.STATUSES`
    """

    score: np.ndarray
    conditional: np.ndarray
    one_shot: np.ndarray
    neighbor: np.ndarray
    similarity: np.ndarray
    status: np.ndarray
    template: str
    stats: ScoreStats


def _pairs(part: StageSlice[NeighborParameters]) -> tuple[np.ndarray, list[Request]]:
    """Statuses `[r]` of the rows' pairs before they are scored, and the requests: all rows' own, then these pairs'."""
    neighbor = part.columns["neighbor"].tolist()
    status = pair_statuses(np.array([b >= 0 and bool(part.examples[b].response.strip()) for b in neighbor], bool))
    pairs = [(part.rows[i], neighbor[i]) for i in np.flatnonzero(status == "ok").tolist()]
    own = [part.request(row) for row in part.rows]
    return status, own + [part.request(row, part.examples[b], b) for row, b in pairs]


def _requests(part: StageSlice[NeighborParameters]) -> list[Request]:
    return _pairs(part)[1]


def _miwv(part: StageSlice[NeighborParameters]) -> Columns:
    known, requests = _pairs(part)
    batch, count = part.score(requests), len(part.rows)
    one_shot, status = pair_scores(batch, count, known)
    conditional = batch.mean_logprob[:count]
    return {
        "score": conditional - one_shot,
        "conditional": conditional,
        "one_shot": one_shot,
        "neighbor": part.columns["neighbor"],
        "similarity": part.columns["similarity"],
        "status": first_failure(batch.status[:count], status),
    }


@method(
    "miwv",
    help="loss of each answer after its nearest neighbour, minus without",
    parameters=NeighborParameters,
    stages=(
        *NEIGHBOR_STAGES,
        Stage("miwv", _miwv, reads=("neighbors",), needs=rows_and_neighbors, requests=_requests, slice_rows=512),
    ),
)
def miwv(outcome: Outcome[NeighborParameters]) -> NeighborResult:
    """MIWV of examples: the mean loss of an answer after its nearest neighbour as a demonstration, minus without.

        score(a) = loss(y_a | b, x_a) - loss(y_a | x_a) = conditional(a) - one_shot(a),  b the row nearest to a

    Highest first: where even the most similar example does not help, there is most to learn.

    {parameters}

    A row without an answer is "empty_target", and so is one without a neighbour, or whose neighbour has no answer to
    show. A pair longer than `max_length` is "too_long"; `conditional` is there all the same.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2511.07074.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> tom = {"instruction": "Once upon a time, there was a boy named Tom.",
    ...        "output": "He loved to play with his toys."}
    >>> found = instsel.miwv(scorer, [lily, tom], neighbors=[1, 0])  # doctest: +SKIP
    >>> found.score.round(3).tolist(), found.conditional.round(3).tolist()  # doctest: +SKIP
    ([-0.024, 0.278], [-0.661, -0.905])
    """
    return outcome.result(NeighborResult)
