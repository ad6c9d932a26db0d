"""wICI: the in-context influence of each example on its probes, weighted by how unlike them it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.methods.complexity import (
    ORDERINGS,
    QUALITY_PROMPT,
    RATED,
    RATING_PROMPT,
    complexity_columns,
    complexity_requests,
)
from instsel.methods.correlation import spearman_correlation
from instsel.methods.definition import Outcome, method
from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.influence import (
    RULES,
    combine_influence,
    direct_columns,
    direct_requests,
    influence_columns,
    influence_requests,
    shown_rows,
)
from instsel.methods.parameters import numbers_for_rows, parameter, replaced
from instsel.methods.ratings import check_rating_prompt
from instsel.methods.stages import Columns, Slice, Stage
from instsel.neighbors.embeddings import cosine
from instsel.neighbors.probes import check_sizes, find_probes

if TYPE_CHECKING:
    from instsel.engine.requests import Request

_RESAMPLES, _RESAMPLES_OF_MANY, _MANY = 1000, 100, 100_000  # bootstrap: of many rows the interval is narrow anyway


@dataclass(frozen=True, kw_only=True)
class InfluenceParameters(EmbeddingParameters):
    """What `wici` can be told."""

    rule: str = parameter("paper", "how influences are combined", choices=RULES)
    probes: Any = parameter(
        None, "rows [n, k] to show each example to, -1 for none; found where not given", kind="array"
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
    complexity_scorer: Any = parameter(
        None, 'rating model for complexity="deita" and "compqual"', kind="model", flag="complexity-model"
    )
    rating_prompt: str = parameter(RATING_PROMPT, "its prompt, with {request} where the example goes", metavar="TEXT")
    quality_scorer: Any = parameter(
        None, 'rating model for complexity="quality" and "compqual"', kind="model", flag="quality-model"
    )
    quality_prompt: str = parameter(QUALITY_PROMPT, "its prompt, with {request} and {response}", metavar="TEXT")
    seed: int = parameter(0, "of k-means", flag=None)
    cut_demonstration: bool = parameter(False, "cut a demonstration from its left where a pair is too long otherwise")

    @property
    def needs_embeddings(self) -> bool:
        return self.probes is None or self.similarity is None

    def check(self) -> None:
        super().check()
        check_sizes(self.num_neighbors, self.num_probes)
        check_rating_prompt(self.rating_prompt)
        check_rating_prompt(self.quality_prompt, ("request", "response"), "quality_prompt")
        if isinstance(self.complexity, str) and self.complexity not in ORDERINGS:
            raise ValueError(
                f"complexity must be one of {', '.join(ORDERINGS)}, numbers or a column, got {self.complexity!r}"
            )
        if self.similarity is not None and self.probes is None:
            raise ValueError("similarity was given without the probes that it belongs to")
        rated = RATED.get(self.complexity, ()) if isinstance(self.complexity, str) else ()
        for kind in ("complexity", "quality"):
            if getattr(self, f"{kind}_scorer") is not None and kind not in rated:
                words = " and ".join(f'"{word}"' for word, kinds in RATED.items() if kind in kinds)
                raise ValueError(f"{kind}_scorer is for complexity={words} only")

    def for_rows(self, count: int) -> InfluenceParameters:
        super().for_rows(count)
        values: dict[str, Any] = {}
        if self.probes is not None:
            values["probes"] = checked_probes(self.probes, count)
            if self.similarity is not None:
                values["similarity"] = checked_similarity(self.similarity, values["probes"])
        if not isinstance(self.complexity, str):
            values["complexity"] = numbers_for_rows("complexity", self.complexity, count)
        return replaced(self, **values)


@dataclass(frozen=True, slots=True)
class InfluenceResult:
    """wICI of each example, in the order given; k probes an example.

    score              float64 [n], NaN where `status` is not "ok"
    ifd                float64 [n], `PPL(y|x) / PPL(y)` of the example itself, NaN where it could not be computed
    one_shot_ifd       float64 [n, k], of the probe's answer after the example as a demonstration; NaN where missing
    influence          float64 [n, k], `ifd[probe] - one_shot_ifd`; NaN where missing
    probes             int64 [n, k], rows, -1 where there is none
    similarity         float64 [n, k], cosines, NaN where there is no probe
    status             str [n], "ok" where at least one pair was scored
    selectable         bool [n], status is "ok", and with rule="release" also ifd <= 1
    demonstration_cut  bool [n, k], the demonstration was cut from its left to fit
    embeddings         float32 [n, d], unit vectors, for `select`; None where probes and similarity were given
    """

    score: np.ndarray
    ifd: np.ndarray
    one_shot_ifd: np.ndarray
    influence: np.ndarray
    probes: np.ndarray
    similarity: np.ndarray
    status: np.ndarray
    selectable: np.ndarray
    demonstration_cut: np.ndarray
    embeddings: np.ndarray | None
    rule: str
    template: str
    stats: ScoreStats


def _complexity(part: Slice[InfluenceParameters]) -> Columns:
    told = part.parameters
    complexity, quality = (told.complexity_scorer, told.rating_prompt), (told.quality_scorer, told.quality_prompt)
    return complexity_columns(part, told.complexity, *complexity, *quality)


def _complexity_requests(part: Slice[InfluenceParameters]) -> list[Request]:
    told = part.parameters
    return complexity_requests(part, told.complexity, told.rating_prompt, told.quality_prompt)


def _probes(part: Slice[InfluenceParameters]) -> Columns:
    """The probes of each row, found or as given, and their cosines."""
    told, columns = part.parameters, part.columns
    if told.probes is None:
        found = find_probes(
            columns["embedding"],
            columns["complexity"],
            num_neighbors=told.num_neighbors,
            num_probes=told.num_probes,
            seed=told.seed,
        )
        return {"probes": found.index, "similarity": found.similarity}
    if told.similarity is not None:
        return {"probes": told.probes, "similarity": told.similarity}
    cosines = cosine(columns["embedding"], np.arange(part.count)[:, None], told.probes)
    return {"probes": told.probes, "similarity": np.where(told.probes >= 0, cosines, np.nan)}


def _some_probes(parameters: InfluenceParameters, count: int) -> Columns:
    """As many probes as there will be; which rows they are takes a forward to know, so the next ones stand in."""
    if parameters.probes is not None:
        return {"probes": parameters.probes}
    width = max(min(parameters.num_probes, count - 1), 0)
    probes = np.full((count, parameters.num_probes), -1)
    probes[:, :width] = (np.arange(count)[:, None] + 1 + np.arange(width)) % max(count, 1)
    return {"probes": probes}


def _influence(part: Slice[InfluenceParameters]) -> Columns:
    return influence_columns(part, cut_demonstration=part.parameters.cut_demonstration)


def _influence_requests(part: Slice[InfluenceParameters]) -> list[Request]:
    return influence_requests(part, cut_demonstration=part.parameters.cut_demonstration)


def _combine(part: Slice[InfluenceParameters]) -> Columns:
    columns = dict(part.columns)
    cut, _ = columns.pop("demonstration_cut"), columns.pop("num_tokens")
    scores = combine_influence(**columns, rule=part.parameters.rule)
    status = scores.pop("status")
    shown = {"probes": columns["probes"], "similarity": columns["similarity"], "demonstration_cut": cut}
    return {**scores, **shown, "status": status}


def _findings(outcome: Outcome[InfluenceParameters]) -> dict[str, Any]:
    """The rank correlation of difficulty and influence, the paper's second question."""
    columns = outcome.columns
    resamples = _RESAMPLES if outcome.count <= _MANY else _RESAMPLES_OF_MANY
    found = spearman_correlation(columns["ifd"], columns["score"], resamples=resamples, seed=outcome.parameters.seed)
    if np.isnan(found.rho):
        return {}
    text = f"Spearman {found.rho:.3f}, 95 % interval {found.low:.3f} to {found.high:.3f} over {found.count:,} rows"
    figures = {"rho": found.rho, "low": found.low, "high": found.high, "rows": found.count}
    return {"difficulty (ifd) and influence (score)": {**figures, "text": text}}


STAGES = (
    *EMBEDDING_STAGES,
    Stage("complexity", _complexity, requests=_complexity_requests, when=lambda told: told.probes is None),
    Stage("probes", _probes, reads=("embeddings", "complexity"), whole=True, guess=_some_probes),
    Stage("direct", direct_columns, requests=direct_requests, slice_rows=2048),
    Stage("influence", _influence, reads=("probes",), needs=shown_rows, requests=_influence_requests, slice_rows=512),
    Stage("wici", _combine, reads=("probes", "direct", "influence"), whole=True),
)


@method(
    "wici",
    help="weighted in-context influence",
    parameters=InfluenceParameters,
    stages=STAGES,
    findings=_findings,
)
def wici(outcome: Outcome[InfluenceParameters]) -> InfluenceResult:
    """Weighted in-context influence (wICI) of examples: how much each, shown before others, makes them easier.

        influence(a, b) = PPL(y_b|x_b) / PPL(y_b) - PPL(y_b|a, x_b) / PPL(y_b)
        rule="paper":    score(a) = mean over probes b of (1 - cos(a, b)) / 2 * influence(a, b)
        rule="release":  score(a) = mean over probes b with influence(a, b) > 0 of (1 - cos(a, b)) * influence(a, b),
                         0 where there is none, and examples with an ifd above 1 are not selectable

    {parameters}

    Probes that are not given are found: the `num_neighbors` nearest rows by cosine, clustered into `num_probes`
    clusters by k-means, of each the most complex member (see `instsel.methods.complexity.complexity_columns`). A pair
    longer than `max_length` is missing from the mean.

    A row is "ok" where at least one of its pairs was scored; otherwise it has the status of its own failure or of its
    first pair's, and "empty_target" where it has no probe at all (there is no other row, or it has no embedding).

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2604.25132; the rule "release" is that of the repository trust-nlp/SyntheticData-Curator.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> tom = {"instruction": "Once upon a time, there was a boy named Tom.",
    ...        "output": "He loved to play with his toys."}
    >>> found = instsel.wici(scorer, [lily, tom], probes=[[1], [0]], similarity=[[0.3], [0.3]])  # doctest: +SKIP
    >>> found.influence.round(3).tolist(), found.score.round(3).tolist()  # doctest: +SKIP
    ([[-0.19], [0.02]], [-0.066, 0.007])
    """
    told, columns = outcome.parameters, outcome.columns
    own = (
        "score", "ifd", "one_shot_ifd", "influence", "probes", "similarity", "status", "selectable",
        "demonstration_cut",
    )  # fmt: skip
    return InfluenceResult(
        **{name: columns[name] for name in own},
        embeddings=columns.get("embedding"),
        rule=told.rule,
        template=told.template,
        stats=outcome.stats,
    )


def checked_probes(probes: Any, count: int) -> np.ndarray:
    """Probes as int64 `[n, k]`; raises ValueError where they are not rows of the pool."""
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
    return array.astype(np.int64)


def checked_similarity(similarity: Any, probes: np.ndarray) -> np.ndarray:
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
