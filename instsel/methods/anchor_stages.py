"""The stages by which anchors are had: given, or chosen from the rows; and what the model makes of each by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.parameters import parameter
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.neighbors.clusters import cluster_rows, nearest_to_centres
from instsel.records import Example

if TYPE_CHECKING:
    from typing import Self

    from instsel.engine.requests import Request


@dataclass(frozen=True, kw_only=True)
class AnchorParameters(EmbeddingParameters):
    """Parameters of a method that has anchors."""

    anchors: Any = parameter(
        None, "examples whose answers are scored after each row; chosen from the rows where not given", kind="rows",
        positional=True,
    )  # fmt: skip
    num_anchors: int = parameter(
        100, "anchors to choose where none are given: of so many k-means clusters the row nearest the centre", minimum=1
    )
    seed: int = parameter(0, "of k-means", flag=None, minimum=0)

    @property
    def needs_embeddings(self) -> bool:
        return self.anchors is None

    def for_rows(self, count: int) -> Self:
        super().for_rows(count)
        if self.anchors is None and count < self.num_anchors:
            raise ValueError(f"num_anchors must be at most the number of rows, {count}, got {self.num_anchors}")
        return self


def anchor_count(parameters: AnchorParameters, count: int) -> int:
    """How many anchors there are, in a pool of `count` rows."""
    return parameters.num_anchors if parameters.anchors is None else len(parameters.anchors)


def anchor_rows(part: StageSlice) -> list[int]:
    """The rows that were chosen as anchors; none where anchors were given."""
    return part.columns["anchor_row"].tolist() if part.parameters.anchors is None else []


def anchors_of(part: StageSlice) -> list[Example]:
    """The anchors, given or chosen."""
    given = part.parameters.anchors
    return [part.examples[row] for row in anchor_rows(part)] if given is None else given


def _choose(part: StageSlice[AnchorParameters]) -> Columns:
    """The rows nearest the centres of k-means over the whole pool, largest cluster first."""
    wanted, embedding = part.parameters.num_anchors, part.columns["embedding"]
    rows = nearest_to_centres(embedding, cluster_rows(embedding, wanted, seed=part.parameters.seed))
    if len(rows) < wanted:
        raise ValueError(f"num_anchors must be at most the number of distinct embeddings, {len(rows)}, got {wanted}")
    return {"anchor_row": rows}


def _requests(part: StageSlice[AnchorParameters]) -> list[Request]:
    if part.parameters.anchors is None:
        return [part.request(row) for row in anchor_rows(part)]
    return [part.request_of(anchor) for anchor in part.parameters.anchors[part.rows.start : part.rows.stop]]


def zero_shot_stage(requests: Callable[[StageSlice], list[Request]], **options: Any) -> Stage:
    """What the model makes of each task by itself: the columns zero_shot, nats a token, and zero_shot_status."""

    def compute(part: StageSlice) -> Columns:
        batch = part.score(requests(part))
        return {"zero_shot": batch.mean_logprob, "zero_shot_status": batch.status}

    return Stage("zero_shot", compute, requests=requests, slice_rows=1024, **{"needs": lambda part: (), **options})


ANCHOR_STAGES = (
    *EMBEDDING_STAGES,
    Stage(
        "anchors", _choose, reads_whole=("embeddings",), whole=True, length=anchor_count,
        when=lambda parameters: parameters.needs_embeddings,
    ),
    zero_shot_stage(_requests, reads=("anchors",), needs=anchor_rows, length=anchor_count),
)  # fmt: skip
