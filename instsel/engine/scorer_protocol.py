"""What a method may ask of whatever scores: a model in this process, workers that have it, a stand-in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from instsel.engine.execution import PlannedTree
from instsel.engine.model import CausalModel
from instsel.engine.requests import PreparedRequests, Requests
from instsel.engine.results import ScoreBatch
from instsel.engine.token_progress import ProgressLike

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ScorerProtocol(Protocol):
    """A scorer as methods and `score_batch` know it: `Scorer`, a pool of workers, or one of your own.

    >>> def total(scorer: ScorerProtocol, texts: list[str]) -> float:
    ...     return float(scorer.score([("", text) for text in texts]).sum_logprob.sum())
    """

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer; None where there is none."""

    @property
    def outline(self) -> CausalModel:
        """The model for planning: its shapes, whether or not its weights are loaded."""

    @property
    def max_length(self) -> int | None:
        """The model's context in tokens; None where its configuration states none."""

    def score(
        self,
        requests: Requests,
        *,
        token_logprobs: bool = False,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> ScoreBatch:
        """What `score_batch` gives for this scorer."""

    def mean_hidden_states(self, texts: Sequence[str], *, progress: ProgressLike = None) -> np.ndarray:
        """Mean over a text's tokens of the model's final hidden states, float32 [n, hidden]."""

    def plan(self, model: CausalModel, prepared: PreparedRequests) -> list[PlannedTree]:
        """The work that prepared requests would be for a model."""


def check_scorer(scorer: object, parameter: str = "scorer") -> None:
    """TypeError for what cannot score, such as a model by itself or its name."""
    if not callable(getattr(scorer, "score", None)):
        got = f"{type(scorer).__name__} {scorer!r}" if isinstance(scorer, str) else type(scorer).__name__
        raise TypeError(f"{parameter}: expected a Scorer, as instsel.Scorer(model) makes it, got {got}")
