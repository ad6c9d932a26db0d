"""DEITA: complexity times quality of each example, as rating models expect them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.complexity import LEVELS, expected_ratings
from instsel.methods.definition import Outcome, method
from instsel.methods.embedding_stages import EMBEDDING_STAGES, EmbeddingParameters
from instsel.methods.pairs import pair_statuses
from instsel.methods.parameters import parameter
from instsel.methods.rating_prompts import QUALITY_PROMPT, RATING_PROMPT, check_rating_prompt
from instsel.methods.ratings import rating_requests
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol


@dataclass(frozen=True, kw_only=True)
class DeitaParameters(EmbeddingParameters):
    """Parameters of `deita`."""

    uses_template: ClassVar[bool] = False

    complexity_scorer: ScorerProtocol | None = parameter(
        None, "model that rates complexity; the scorer itself if None", kind="model", flag="complexity-model"
    )
    quality_scorer: ScorerProtocol | None = parameter(
        None, "model that rates quality; the scorer itself if None", kind="model", flag="quality-model"
    )
    complexity_prompt: str = parameter(
        RATING_PROMPT, "text with {request} after which complexity is rated 1 to 6", metavar="TEXT"
    )
    quality_prompt: str = parameter(
        QUALITY_PROMPT, "text with {request} and {response} after which quality is rated 1 to 6", metavar="TEXT"
    )

    def check(self) -> None:
        super().check()
        check_rating_prompt(self.complexity_prompt, ("request",), "complexity_prompt")
        check_rating_prompt(self.quality_prompt, ("request", "response"), "quality_prompt")


@dataclass(frozen=True, slots=True)
class DeitaResult(ResultTable):
    """Complexity and quality of each example, in the order given; NaN where `status` is not "ok".

    score       float64 [n], complexity * quality, from 1 to 36
    complexity  float64 [n], expected rating from 1 to 6
    quality     float64 [n], expected rating from 1 to 6
    status      str [n], one of `instsel.engine.results.STATUSES`; "empty_target" where there is no answer to rate
    embeddings  float32 [n, d], unit vectors, for `select`
    """

    score: np.ndarray
    complexity: np.ndarray
    quality: np.ndarray
    status: np.ndarray
    embeddings: np.ndarray
    stats: ScoreStats


def _requests(part: StageSlice[DeitaParameters]) -> list[Request]:
    return rating_requests(part, [part.parameters.complexity_prompt, part.parameters.quality_prompt], LEVELS)


def _compute(part: StageSlice[DeitaParameters]) -> Columns:
    parameters = part.parameters
    complexity, first = expected_ratings(part, parameters.complexity_prompt, parameters.complexity_scorer)
    quality, second = expected_ratings(part, parameters.quality_prompt, parameters.quality_scorer)
    status = first_failure(pair_statuses(part.answered), first, second)
    complexity, quality = (np.where(status == "ok", values, np.nan) for values in (complexity, quality))
    return {"score": complexity * quality, "complexity": complexity, "quality": quality, "status": status}


@method(
    "deita",
    help="complexity times quality by rating models",
    parameters=DeitaParameters,
    stages=(*EMBEDDING_STAGES, Stage("deita", _compute, requests=_requests, slice_rows=512)),
)
def deita(outcome: Outcome[DeitaParameters]) -> DeitaResult:
    """Rate each example's complexity and quality by the probabilities of the ratings 1 to 6 (DEITA).

        complexity = sum_r r p(r | complexity prompt) / sum_r p(r | complexity prompt),  quality likewise
        score      = complexity * quality

    p(r) is the probability of the rating's digit right after the prompt. The authors' two rating models were each
    trained on one prompt of their own and mean little after another: give it with the model. Without them the scorer
    is asked, by prompts of our own wording.

    {parameters}

    `select` then does what the authors call the repr filter: rows by score, highest first, each kept if its cosine to
    every row kept before is below 0.9.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read; ValueError naming the digit
    where the tokenizer of a rating model does not write each rating as one token of its own.

    Source: arXiv 2312.15685, and the repository hkust-nlp/deita.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> found = instsel.deita(scorer, [lily, {"instruction": "Say nothing.", "output": ""}])  # doctest: +SKIP
    >>> found.complexity.round(3).tolist(), found.quality.round(3).tolist()  # doctest: +SKIP
    ([2.71, nan], [2.148, nan])
    >>> found.score.round(3).tolist(), found.status.tolist()  # doctest: +SKIP
    ([5.822, nan], ['ok', 'empty_target'])
    """
    return outcome.result(DeitaResult, embeddings=outcome.columns["embedding"])
