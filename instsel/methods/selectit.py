"""SelectIT: the model's own rating of each example, discounted where rating prompts disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.definition import Outcome, method
from instsel.methods.pairs import pair_statuses
from instsel.methods.parameters import Parameters, parameter, replaced
from instsel.methods.rating_prompts import check_rating_prompts, default_prompts
from instsel.methods.ratings import expected_rating, rating_logprobs, rating_requests, shares
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol

TOKEN_LEVELS = ("authors", "expected")


@dataclass(frozen=True, kw_only=True)
class SelectItParameters(Parameters):
    """Parameters of `selectit`."""

    uses_template: ClassVar[bool] = False

    rating_prompts: Sequence[str] = parameter(
        None, "texts with {request} and {response} where the example goes; five of our own if None", kind="texts"
    )
    levels: int = parameter(5, "the best rating; the worst is 1", minimum=2, maximum=9)
    alpha: float = parameter(0.2, "how much the spread over the prompts counts against an example", minimum=0)
    token_level: str = parameter(
        "authors", "a prompt's score: as the authors' program, or the expected rating", choices=TOKEN_LEVELS
    )
    scorers: Sequence[ScorerProtocol] | None = parameter(
        None, "more models that rate too, weighted by their parameter counts", kind="models"
    )

    def check(self) -> None:
        if self.rating_prompts is not None:
            check_rating_prompts(self.rating_prompts, ("request", "response"), "rating_prompts")
        if self.scorers is not None and not isinstance(self.scorers, (list, tuple)):
            raise TypeError(f"scorers must be a list of scorers, got {type(self.scorers).__name__}")

    def for_rows(self, count: int) -> SelectItParameters:
        prompts = default_prompts(self.levels) if self.rating_prompts is None else list(self.rating_prompts)
        return replaced(self, rating_prompts=prompts)


@dataclass(frozen=True, slots=True)
class SelectItResult(ResultTable):
    """The rating of each example, in the order given, by S scorers under K prompts; NaN where `status` is not "ok".

    score           float64 [n], over the scorers
    sentence_score  float64 [n, S], of each scorer over its prompts, the main scorer's first
    token_score     float64 [n, S * K], of each prompt, scorer by scorer
    status          str [n], one of `instsel.engine.results.STATUSES`; "empty_target" where there is no answer to rate
    """

    score: np.ndarray
    sentence_score: np.ndarray
    token_score: np.ndarray
    status: np.ndarray
    token_level: str
    stats: ScoreStats


def peak_score(logprob: np.ndarray) -> np.ndarray:
    """The token-level score of the authors' program, along the last axis.

        q(r) = exp(s(r)) / sum_k exp(s(k)),  s(r) = p(r) / sum_k p(k)
        score = r* (sum_k q(r*) - q(k)) / (levels - 1),  r* the first rating with the highest q

    The second normalisation is theirs: it takes exponentials of probabilities, not of logits.
    """
    again = np.exp(shares(logprob))
    again /= again.sum(-1, keepdims=True)
    lead = again.max(-1, keepdims=True) - again
    return np.asarray((again.argmax(-1) + 1) * lead.sum(-1) / (logprob.shape[-1] - 1))


def scorer_weights(scorers: list[ScorerProtocol]) -> np.ndarray:
    """Each scorer's share of all their parameters, float64 `[S]`."""
    if len(scorers) == 1:
        return np.ones(1)
    counts = np.array([sum(one.numel() for one in scorer.outline.model.parameters()) for scorer in scorers], np.float64)
    return np.asarray(counts / counts.sum())


def _requests(part: StageSlice[SelectItParameters]) -> list[Request]:
    # A plan knows one model: what further scorers cost is not in it.
    return rating_requests(part, part.parameters.rating_prompts, part.parameters.levels)


def _compute(part: StageSlice[SelectItParameters]) -> Columns:
    parameters = part.parameters
    scorers = [part.scorer, *(parameters.scorers or ())]
    status = pair_statuses(part.answered)
    token, sentence = [], []
    for place, scorer in enumerate(scorers):
        logprob, found = rating_logprobs(part, parameters.rating_prompts, parameters.levels, scorer if place else None)
        status = first_failure(status, *found.T)
        token.append(peak_score(logprob) if parameters.token_level == "authors" else expected_rating(logprob))
        sentence.append(token[-1].mean(1) / (1 + parameters.alpha * token[-1].std(1)))
    good = (status == "ok")[:, None]
    each = np.where(good, np.stack(sentence, 1), np.nan)
    return {
        "score": each @ scorer_weights(scorers),
        "sentence_score": each,
        "token_score": np.where(good, np.concatenate(token, 1), np.nan),
        "status": status,
    }


@method(
    "selectit",
    help="the model's own rating of each example",
    parameters=SelectItParameters,
    stages=(Stage("selectit", _compute, requests=_requests, slice_rows=128),),
)
def selectit(outcome: Outcome[SelectItParameters]) -> SelectItResult:
    """Rate each example by the model's own probabilities of the ratings 1 to `levels` (SelectIT).

        token_level="authors":   token(k) = r* mean_{r != r*} (q(r*) - q(r)),  q = softmax(p / sum p), r* = argmax q
        token_level="expected":  token(k) = sum_r r p(r) / sum_r p(r)
        sentence = mean_k token(k) / (1 + alpha std_k token(k)),  over the K rating prompts
        score    = sum_s w(s) sentence(s),  w(s) = parameters(s) / sum of all scorers' parameters

    p(r) is the probability of the rating's digit right after a rating prompt that shows the example; std divides by K.

    {parameters}

    A rating prompt's text is given in full; it says what a rating means, and should end where the digit goes. The
    prompts used where none are given are our own, not the authors'.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read; ValueError naming the digit
    where the tokenizer of a scorer does not write each rating as one token of its own.

    Source: arXiv 2402.16705; "authors" and the order of mean and standard deviation as the repository
    Blue-Raincoat/SelectIT, whose program weights three fixed models by numbers written into it.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> nothing = {"instruction": "Say nothing.", "output": ""}
    >>> found = instsel.selectit(scorer, [lily, nothing])  # doctest: +SKIP
    >>> found.score.round(3).tolist(), found.status.tolist()  # doctest: +SKIP
    ([0.327, nan], ['ok', 'empty_target'])
    >>> found.token_score[0].round(3).tolist()  # doctest: +SKIP
    [0.344, 0.362, 0.31, 0.291, 0.338]
    """
    return outcome.result(SelectItResult)
