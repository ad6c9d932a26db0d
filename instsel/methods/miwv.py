"""MIWV: how much worse an example's answer is predicted when its nearest neighbour is shown first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.influence import NO_ANSWER
from instsel.methods.parameters import parameter, replaced
from instsel.methods.stages import Columns, Slice, Stage, first_failure
from instsel.neighbors.embeddings import cosine
from instsel.neighbors.nearest import neighbors_of

if TYPE_CHECKING:
    from instsel.engine.requests import Request


@dataclass(frozen=True, kw_only=True)
class NeighborParameters(EmbeddingParameters):
    """What `miwv` can be told."""

    neighbors: Any = parameter(
        None, "rows [n], which other row is shown before each, -1 for none; the nearest where not given", kind="array"
    )

    @property
    def needs_embeddings(self) -> bool:
        return self.neighbors is None or self.embedder is not None

    def for_rows(self, count: int) -> NeighborParameters:
        super().for_rows(count)
        return self if self.neighbors is None else replaced(self, neighbors=checked_neighbors(self.neighbors, count))


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


def _neighbors(part: Slice[NeighborParameters]) -> Columns:
    """The nearest other row of each, or the one given, and the cosine between them."""
    rows, embedding = part.rows, part.columns.get("embedding")
    if part.parameters.neighbors is None:
        near = neighbors_of(part.columns["embedding"], rows, 1)
        neighbor = near.index[:, 0] if near.index.shape[1] else np.full(len(rows), -1)
    else:
        neighbor = part.parameters.neighbors[rows.start : rows.stop]
    similarity = np.full(len(rows), np.nan)
    if embedding is not None:
        shown = np.flatnonzero(neighbor >= 0)
        similarity[shown] = cosine(embedding, rows.start + shown, neighbor[shown])
    return {"neighbor": neighbor, "similarity": similarity}


def _shown_rows(part: Slice[NeighborParameters]) -> list[int]:
    neighbor = part.columns["neighbor"]
    return [*part.rows, *neighbor[neighbor >= 0].tolist()]


def _pairs(part: Slice[NeighborParameters]) -> tuple[np.ndarray, list[Request]]:
    """Which rows have a neighbour with an answer to show, and the requests: all rows' own, then these rows' pairs."""
    neighbor = part.columns["neighbor"].tolist()
    shown = np.array([b >= 0 and bool(part.examples[b].response.strip()) for b in neighbor], bool)
    pairs = [(part.rows[i], neighbor[i]) for i in np.flatnonzero(shown).tolist()]
    own = [part.request(row) for row in part.rows]
    return shown, own + [part.request(row, part.examples[b], b) for row, b in pairs]


def _requests(part: Slice[NeighborParameters]) -> list[Request]:
    return _pairs(part)[1]


def _miwv(part: Slice[NeighborParameters]) -> Columns:
    shown, requests = _pairs(part)
    batch, count = part.score(requests), len(part.rows)
    one_shot, after = np.full(count, np.nan), np.full(count, NO_ANSWER, batch.status.dtype)
    one_shot[shown], after[shown] = batch.mean_logprob[count:], batch.status[count:]
    conditional = batch.mean_logprob[:count]
    return {
        "score": conditional - one_shot,
        "conditional": conditional,
        "one_shot": one_shot,
        "neighbor": part.columns["neighbor"],
        "similarity": part.columns["similarity"],
        "status": first_failure(batch.status[:count], after),
    }


STAGES = (
    *EMBEDDING_STAGES,
    Stage(
        "neighbors", _neighbors, reads_whole=("embeddings",), needs=lambda part: (), slice_rows=2048,
        guess=lambda told, count: {"neighbor": (np.arange(count) + 1) % count if count > 1 else np.full(count, -1)},
    ),
    Stage("miwv", _miwv, reads=("neighbors",), needs=_shown_rows, requests=_requests, slice_rows=512),
)  # fmt: skip


@method(
    "miwv",
    help="loss of each answer after its nearest neighbour, minus without",
    parameters=NeighborParameters,
    stages=STAGES,
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
    own = ("score", "conditional", "one_shot", "neighbor", "similarity", "status")
    columns = {name: outcome.columns[name] for name in own}
    return NeighborResult(**columns, template=outcome.parameters.template, stats=outcome.stats)


def checked_neighbors(neighbors: Any, count: int) -> np.ndarray:
    """Neighbours as int64 `[n]`; raises ValueError where they are not other rows of the pool."""
    array = np.asarray(neighbors)
    if array.shape != (count,) or (count and array.dtype.kind not in "iu"):
        raise ValueError(
            f"neighbors must be whole numbers [{count}], the row to show before each example, "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    wrong = np.flatnonzero((array < -1) | (array >= count))
    if len(wrong):
        raise ValueError(f"neighbors must be rows from 0 to {count - 1}, or -1 for none, got {array[wrong[0]]}")
    own = np.flatnonzero(array == np.arange(count))
    if len(own):
        raise ValueError(f"neighbors must be other rows, but row {own[0]} is its own neighbour")
    return array.astype(np.int64)
