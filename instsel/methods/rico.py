"""RICo: how much better each example, shown first, makes the model at a set of assessment tasks than noise would."""

from __future__ import annotations

import string
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from instsel.engine.result_table import ResultTable
from instsel.engine.results import ScoreStats
from instsel.methods.anchor_stages import zero_shot_stage
from instsel.methods.definition import Outcome, method
from instsel.methods.pairs import pair_statuses, row_statuses, same_texts
from instsel.methods.parameters import Parameters, parameter, replaced
from instsel.methods.stages import Columns, Stage, StageSlice, first_failure
from instsel.methods.turn_requests import flat, regrouped
from instsel.prompts import is_chat_template
from instsel.prompts.automatic_template import AUTO
from instsel.records import to_examples

if TYPE_CHECKING:
    from instsel.engine.requests import Request

_BETWEEN = "\n\n\n"  # the demonstration and the task, as the authors' program joins them
_NOISE = np.array(list(string.ascii_letters + string.punctuation + string.digits + " "))
_STEEPNESS, _LARGE = 50, 0.5  # of the program's sigmoid, and where it is cut off


@dataclass(frozen=True, kw_only=True)
class RicoParameters(Parameters):
    """Parameters of `rico`."""

    takes_chat_template: ClassVar[bool] = False

    assessment: Any = parameter(
        None, "examples of the tasks that the model is to become better at", kind="rows", positional=True
    )
    seed: int = parameter(0, "of the noise", flag=None, minimum=0)

    def check(self) -> None:
        if self.assessment is None or (isinstance(self.assessment, (list, tuple)) and not self.assessment):
            raise ValueError(f"assessment must be at least one example, got {self.assessment!r}")
        if self.template != AUTO and is_chat_template(self.template):
            raise ValueError('template must not be "chat" or a .jinja file: what is shown stands before a task as text')

    def for_rows(self, count: int) -> RicoParameters:
        return replaced(self, assessment=to_examples(self.assessment))


@dataclass(frozen=True, slots=True)
class RicoResult(ResultTable):
    """Contribution of each example to m assessment tasks, in the order given; NaN where `status` is not "ok".

    score         float64 [n], mean influence; what the paper ranks by
    significance  float64 [n], its sigmoid, -1 to 1
    consistency   float64 [n], share of the tasks with an influence above 0
    variance      float64 [n], of the influences; NaN where there is only one
    coverage      float64 [n], share of the tasks with an influence above 0.5
    influence     float64 [n, m], NaN for a pair that could not be scored
    status        str [n], "ok" where at least one pair was scored; "empty_target" where there is no answer to show
    """

    score: np.ndarray
    significance: np.ndarray
    consistency: np.ndarray
    variance: np.ndarray
    coverage: np.ndarray
    influence: np.ndarray
    status: np.ndarray
    template: str
    stats: ScoreStats


def noise_for(text: str, seed: int, row: int) -> str:
    """Random characters in place of a row's text, as many as it has."""
    return "".join(np.random.default_rng([seed, row]).choice(_NOISE, len(text)))


def _tasks(part: StageSlice[RicoParameters]) -> list[Request]:
    return [part.request_of(part.parameters.assessment[task]) for task in part.rows]


def _requests(part: StageSlice[RicoParameters]) -> list[Request]:
    """For each row each task after the row's own text, then each after noise."""
    parameters = part.parameters
    tasks = [part.request_of(task) for task in parameters.assessment]
    whole = replace(part, parameters=replaced(parameters, score_turns="last", reasoning="keep"))
    requests: list[Request] = []
    for row in part.rows:
        shown = "".join(str(text) for text in whole.request(row))
        if not shown:  # as of a row that cannot be read
            requests.extend([("", "")] * (2 * len(tasks)))
            continue
        for before in (shown, noise_for(shown, parameters.seed, row)):
            each = [(before + _BETWEEN + str(prompt), answer) for prompt, answer in flat(tasks)]
            requests.extend(regrouped(tasks, each))
    return requests


def _compute(part: StageSlice[RicoParameters]) -> Columns:
    parameters, zero = part.parameters, part.columns
    batch, shape = part.score(_requests(part)), (len(part.rows), 2, len(parameters.assessment))
    known = pair_statuses(
        part.answered[:, None] & ~same_texts([part.examples[row] for row in part.rows], parameters.assessment)
    )
    status = first_failure(known, zero["zero_shot_status"], *batch.status.reshape(shape).swapaxes(0, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        shown, noise = np.exp(-batch.mean_logprob.reshape(shape)).swapaxes(0, 1)
        influence = (noise - shown) / (np.exp(-zero["zero_shot"]) + 1e-6)
    status = np.where((status == "ok") & ~np.isfinite(influence), "nonfinite", status)
    influence = np.where(status == "ok", influence, np.nan)
    return {**contributions(influence), "influence": influence, "status": row_statuses(status, known)}


def contributions(influence: np.ndarray) -> Columns:
    """What an example does to all tasks, from its influences `[n, m]`; a pair without one (NaN) is left out."""
    known = ~np.isnan(influence)
    count = known.sum(1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(known, influence, 0.0).sum(1) / count
        variance = np.where(known, (influence - mean[:, None]) ** 2, 0.0).sum(1) / (count - 1)
        slope = 2 / (1 + np.exp(-_STEEPNESS * mean)) - 1
        return {
            "score": mean,
            "significance": np.where(np.abs(mean) > _LARGE, np.sign(mean), slope),
            "consistency": (influence > 0).sum(1) / count,
            "variance": np.where(count > 1, variance, np.nan),
            "coverage": (influence > _LARGE).sum(1) / count,
        }


@method(
    "rico",
    help="contribution to assessment tasks, against noise",
    parameters=RicoParameters,
    stages=(
        zero_shot_stage(_tasks, length=lambda parameters, count: len(parameters.assessment)),
        Stage("rico", _compute, reads_whole=("zero_shot",), requests=_requests, slice_rows=8),
    ),
)
def rico(outcome: Outcome[RicoParameters]) -> RicoResult:
    """Contribution of each example to assessment tasks when it is shown before them (RICo).

        influence(a, b) = (PPL(y_b | noise, x_b) - PPL(y_b | a, x_b)) / (PPL(y_b | x_b) + 1e-6)
        score(a)        = mean_b influence(a, b)
        significance(a) = 2 / (1 + exp(-50 score(a))) - 1, and -1 or 1 where |score(a)| > 0.5

    The noise is random letters, digits, signs and blanks, as many as `a` has characters with its prompt; one text for
    each example, made of `seed` and its row. Example or noise stands three line feeds before the task.

    {parameters}

    An assessment example that is the row itself is left out of its mean, and so is a pair that does not fit.

    Raises ValueError or TypeError naming the parameter, or the row that cannot be read.

    Source: arXiv 2505.05327 and the repository AnnaYang2020/RICo_Data_Selection_for_Instruction-Tuning, without the
    classifier that it trains on these scores.

    >>> scorer = instsel.Scorer("stories260k")  # the 260,032 parameters of karpathy/tinyllamas  # doctest: +SKIP
    >>> lily = {"instruction": "Once upon a time, there was a little girl named Lily.",
    ...         "output": "She loved to play outside in the park."}
    >>> tom = {"instruction": "Once upon a time, there was a boy named Tom.",
    ...        "output": "He loved to play with his toys."}
    >>> found = instsel.rico(scorer, [lily], assessment=[tom])  # doctest: +SKIP
    >>> found.score.round(3).tolist(), found.significance.round(3).tolist()  # doctest: +SKIP
    ([0.252], [1.0])
    """
    return outcome.result(RicoResult)
