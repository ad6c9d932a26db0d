"""The stages by which probes are found: the complexity of rows, then the probes of each and their cosines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.methods.complexity import ORDERINGS, RATED, complexity_columns, complexity_requests
from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.parameters import numbers_for_rows, parameter, replaced
from instsel.methods.rating_prompts import QUALITY_PROMPT, RATING_PROMPT, check_rating_prompt
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.neighbors.embeddings import cosine
from instsel.neighbors.nearest import neighbors_of
from instsel.neighbors.probes import check_sizes, probes_among

if TYPE_CHECKING:
    from typing import Self

    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol


@dataclass(frozen=True, kw_only=True)
class ProbeParameters(EmbeddingParameters):
    """Parameters of a method that finds probes."""

    probes: Any = parameter(
        None, "other rows [n, k] to show each example to, -1 for none; found where not given", kind="array"
    )
    similarity: Any = parameter(
        None, "cosines [n, k] to given probes; computed from the embeddings where not given", kind="array"
    )
    num_neighbors: int = parameter(32, "nearest rows to choose probes from", minimum=1)
    num_probes: int = parameter(5, "probes of each row: of each k-means cluster the most complex member", minimum=1)
    complexity: Any = parameter(
        "length", "what orders the members of a cluster: a word, a column, numbers [n] or a function of the examples",
        kind="numbers", choices=ORDERINGS, metavar="ORDER",
    )  # fmt: skip
    complexity_scorer: ScorerProtocol | None = parameter(
        None, 'rating model for complexity="deita" and "compqual"', kind="model", flag="complexity-model"
    )
    rating_prompt: str = parameter(RATING_PROMPT, "its prompt, with {request} where the example goes", metavar="TEXT")
    quality_scorer: ScorerProtocol | None = parameter(
        None, 'rating model for complexity="quality" and "compqual"', kind="model", flag="quality-model"
    )
    quality_prompt: str = parameter(QUALITY_PROMPT, "its prompt, with {request} and {response}", metavar="TEXT")
    seed: int = parameter(0, "of k-means", flag=None, minimum=0)
    neighbors_as_probes: bool = parameter(False, "the num_probes nearest rows are the probes, without clusters")

    @property
    def needs_embeddings(self) -> bool:
        return self.probes is None or self.similarity is None

    @property
    def clusters_neighbors(self) -> bool:
        """Whether probes are found in clusters of neighbours, ordered by complexity."""
        return self.probes is None and not self.neighbors_as_probes

    def check(self) -> None:
        super().check()
        check_sizes(self.num_probes if self.neighbors_as_probes else self.num_neighbors, self.num_probes)
        check_rating_prompt(self.rating_prompt)
        check_rating_prompt(self.quality_prompt, ("request", "response"), "quality_prompt")
        if self.similarity is not None and self.probes is None:
            raise ValueError("similarity was given without the probes that it belongs to")
        rated = RATED.get(self.complexity, ()) if isinstance(self.complexity, str) else ()
        for kind in ("complexity", "quality"):
            if getattr(self, f"{kind}_scorer") is not None and kind not in rated:
                words = " and ".join(word for word, kinds in RATED.items() if kind in kinds)
                raise ValueError(f"--{kind}-model, or {kind}_scorer, is for complexity by {words} only")
        if self.neighbors_as_probes and self.probes is not None:
            raise ValueError("neighbors_as_probes was given together with probes; give one of them")

    def for_rows(self, count: int) -> Self:
        super().for_rows(count)
        values: dict[str, np.ndarray] = {}
        if self.probes is not None:
            values["probes"] = checked_probes(self.probes, count)
            if self.similarity is not None:
                values["similarity"] = checked_similarity(self.similarity, values["probes"])
        if not isinstance(self.complexity, str):
            values["complexity"] = numbers_for_rows("complexity", self.complexity, count)
        return replaced(self, **values)


def _complexity(part: StageSlice[ProbeParameters]) -> Columns:
    parameters = part.parameters
    complexity, quality = (
        (parameters.complexity_scorer, parameters.rating_prompt),
        (parameters.quality_scorer, parameters.quality_prompt),
    )
    return complexity_columns(part, parameters.complexity, *complexity, *quality)


def _some_complexity(part: StageSlice[ProbeParameters]) -> Columns:
    """As "length" orders them but in characters; for ratings, which take a forward to know, too."""
    if not isinstance(part.parameters.complexity, str):
        return _complexity(part)
    lengths = [len(part.examples[row].response) or np.nan for row in part.rows]
    return {"complexity": np.array(lengths, np.float64)}


def _complexity_requests(part: StageSlice[ProbeParameters]) -> list[Request]:
    parameters = part.parameters
    return complexity_requests(part, parameters.complexity, parameters.rating_prompt, parameters.quality_prompt)


def _probes(part: StageSlice[ProbeParameters]) -> Columns:
    """The probes of each row, found or as given, and their cosines."""
    parameters, columns, rows = part.parameters, part.columns, part.rows
    own = slice(rows.start, rows.stop)
    if parameters.probes is not None:
        if parameters.similarity is not None:
            return {"probes": parameters.probes[own], "similarity": parameters.similarity[own]}
        cosines = cosine(columns["embedding"], np.arange(rows.start, rows.stop)[:, None], parameters.probes[own])
        return {"probes": parameters.probes[own], "similarity": np.where(parameters.probes[own] >= 0, cosines, np.nan)}
    unit = columns["embedding"]
    if parameters.neighbors_as_probes:
        near = neighbors_of(unit, rows, parameters.num_probes)
        room = ((0, 0), (0, parameters.num_probes - near.index.shape[1]))
        return {
            "probes": np.pad(near.index, room, constant_values=-1),
            "similarity": np.pad(near.similarity, room, constant_values=np.nan),
        }
    near = neighbors_of(unit, rows, parameters.num_neighbors)
    found = probes_among(unit, columns["complexity"], near, num_probes=parameters.num_probes, seed=parameters.seed)
    return {"probes": found.index, "similarity": found.similarity}


def checked_probes(probes: object, count: int) -> np.ndarray:
    """Probes as int64 `[n, k]`; raises ValueError where they are not other rows of the pool."""
    array = np.asarray(probes)
    if array.size == 0 and count == 0:
        array = array.astype(np.int64)
    if array.ndim != 2 or len(array) != count or array.shape[1] == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            f"probes must be whole numbers [{count}, k], the rows to show each example to, "
            f"got {array.dtype} of shape {list(array.shape)}"
        )
    if count and (array.min() < -1 or array.max() >= count):
        wrong = array[(array < -1) | (array >= count)][0]
        raise ValueError(f"probes must be rows from 0 to {count - 1}, or -1 for none, got {wrong}")
    own = np.flatnonzero((array == np.arange(count)[:, None]).any(1))
    if len(own):
        raise ValueError(f"probes must be other rows, but row {own[0]} is its own probe")
    return array.astype(np.int64)


def checked_similarity(similarity: object, probes: np.ndarray) -> np.ndarray:
    """Cosines float64 `[n, k]`; raises ValueError where they are none or not one a probe."""
    array = np.asarray(similarity, np.float64)
    if array.shape != probes.shape:
        raise ValueError(f"similarity must have the shape of probes, {list(probes.shape)}, got {list(array.shape)}")
    array = np.where(probes >= 0, array, np.nan)
    wrong = (probes >= 0) & ~(np.abs(array) <= 1 + 1e-6)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        raise ValueError(f"similarity must be cosines from -1 to 1, got {array[row, place]} at [{row}, {place}]")
    return array


PROBE_STAGES = (
    *EMBEDDING_STAGES,
    Stage(
        "complexity", _complexity, requests=_complexity_requests, guess=_some_complexity,
        when=lambda parameters: parameters.clusters_neighbors,
    ),
    Stage(
        "probes", _probes, reads_whole=("embeddings", "complexity"), needs=lambda part: (), slice_rows=2048,
    ),
)  # fmt: skip
