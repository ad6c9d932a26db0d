"""The stages by which each row gets one other row: the nearest, or the one given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.parameters import parameter, replaced
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.neighbors.embeddings import cosine
from instsel.neighbors.nearest import neighbors_of

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, kw_only=True)
class NeighborParameters(EmbeddingParameters):
    """Parameters of a method that shows each row's neighbour."""

    shows_demonstrations: ClassVar[bool] = True

    neighbors: Any = parameter(
        None, "rows [n], which other row is shown before each, -1 for none; the nearest where not given", kind="array"
    )

    @property
    def needs_embeddings(self) -> bool:
        return self.neighbors is None or self.embedder is not None

    def for_rows(self, count: int) -> Self:
        super().for_rows(count)
        return self if self.neighbors is None else replaced(self, neighbors=checked_neighbors(self.neighbors, count))


def rows_and_neighbors(part: StageSlice) -> list[int]:
    """The rows of a slice and their neighbours."""
    neighbor = part.columns["neighbor"]
    return [*part.rows, *neighbor[neighbor >= 0].tolist()]


def checked_neighbors(neighbors: object, count: int) -> np.ndarray:
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


def _neighbors(part: StageSlice[NeighborParameters]) -> Columns:
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


NEIGHBOR_STAGES = (
    *EMBEDDING_STAGES,
    Stage("neighbors", _neighbors, reads_whole=("embeddings",), needs=lambda part: (), slice_rows=2048),
)
