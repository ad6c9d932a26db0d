"""wICI: the in-context influence of each example on its probes, weighted by how unlike them it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.correlation import spearman_correlation
from instsel.methods.definition import Outcome, method
from instsel.methods.influence import (
    NEGATIVES,
    RULES,
    WEIGHTS,
    combine_influence,
    direct_columns,
    direct_requests,
    influence_columns,
    influence_requests,
    shown_rows,
)
from instsel.methods.parameters import parameter
from instsel.methods.probe_stages import PROBE_STAGES, ProbeParameters
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.records.json_types import JsonObject

if TYPE_CHECKING:
    from instsel.engine.requests import Request

_RESAMPLES, _RESAMPLES_OF_MANY, _MANY = 1000, 100, 100_000  # bootstrap: of many rows the interval is narrow anyway


@dataclass(frozen=True, kw_only=True)
class InfluenceParameters(ProbeParameters):
    """Parameters of `wici`."""

    shows_demonstrations: ClassVar[bool] = True

    rule: str = parameter("paper", "how influences are combined", choices=RULES)
    weight: str = parameter("rule", "of an influence: its probe's distance, none, or as the rule says", choices=WEIGHTS)
    negatives: str = parameter(
        "rule", "keep influences below 0 in the mean, drop them, or as the rule says", choices=NEGATIVES
    )
    relative: bool = parameter(False, 'divide each influence by the probe\'s ifd; not with rule="gain"')
    cut_demonstration: bool = parameter(False, "cut a demonstration from its left where a pair is too long otherwise")

    def check(self) -> None:
        super().check()
        if self.relative and self.rule == "gain":
            raise ValueError("relative is for the rules paper and release: a gain in nats is relative by itself")


@dataclass(frozen=True, slots=True)
class InfluenceResult(ResultTable):
    """wICI of each example, in the order given; k probes an example.

    score              float64 [n], NaN where `status` is not "ok"
    gain               float64 [n], nats a token: the score by rule="gain", whatever the rule
    ifd                float64 [n], `PPL(y|x) / PPL(y)` of the example itself, NaN where it could not be computed
    one_shot_ifd       float64 [n, k], of the probe's answer after the example as a demonstration; NaN where missing
    influence          float64 [n, k], `ifd[probe] - one_shot_ifd`, or `log ifd[probe] - log one_shot_ifd` with
                       rule="gain"; NaN where missing
    probes             int64 [n, k], rows, -1 where there is none
    similarity         float64 [n, k], cosines, NaN where there is no probe
    status             str [n], "ok" where at least one pair was scored
    selectable         bool [n], status is "ok", and with rule="release" also ifd <= 1
    demonstration_cut  bool [n, k], the demonstration was cut from its left to fit
    embeddings         float32 [n, d], unit vectors, for `select`; None where probes and similarity were given
    """

    score: np.ndarray
    gain: np.ndarray
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


def _influence(part: StageSlice[InfluenceParameters]) -> Columns:
    return influence_columns(part, cut_demonstration=part.parameters.cut_demonstration)


def _influence_requests(part: StageSlice[InfluenceParameters]) -> list[Request]:
    return influence_requests(part, cut_demonstration=part.parameters.cut_demonstration)


def _combine(part: StageSlice[InfluenceParameters]) -> Columns:
    columns = dict(part.columns)
    cut, _ = columns.pop("demonstration_cut"), columns.pop("num_tokens")
    parameters = part.parameters
    options = {
        "rule": parameters.rule,
        "weight": parameters.weight,
        "negatives": parameters.negatives,
        "relative": parameters.relative,
    }
    scores = combine_influence(**columns, **options)  # type: ignore[arg-type]
    status = scores.pop("status")
    shown = {"probes": columns["probes"], "similarity": columns["similarity"], "demonstration_cut": cut}
    return {**scores, **shown, "status": status}


def _findings(outcome: Outcome[InfluenceParameters]) -> JsonObject:
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
    *PROBE_STAGES,
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
        rule="gain":     score(a) = mean over probes b of log PPL(y_b|x_b) - log PPL(y_b|a, x_b), nats a token: how
                         much likelier the probe's answer becomes, which no weight and no ratio of a ratio hides

    {parameters}

    `weight`, `negatives`, `relative` and `neighbors_as_probes` are the ablations of the paper and of its programs.
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
    return outcome.result(InfluenceResult, embeddings=outcome.columns.get("embedding"))
