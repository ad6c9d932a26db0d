"""What stands for a scorer where forwarding killed a worker again and again: the same statuses as ever, no number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.execution import PlannedTree
from instsel.engine.model import CausalModel
from instsel.engine.requests import PreparedRequests, Requests, prepare
from instsel.engine.results import ScoreBatch, ScoreStats
from instsel.engine.scorer_protocol import ScorerProtocol
from instsel.engine.token_progress import ProgressLike

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORKER_DIED = "worker_died"


class FailingScorer:
    """Gives every request that could be scored the status "worker_died", and forwards nothing.

    A method then treats these rows as it treats any that could not be scored: its columns keep their form, and its
    result says which rows are missing.
    """

    def __init__(self, scorer: ScorerProtocol) -> None:
        self._stands_for = scorer

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer."""
        return self._stands_for.tokenizer

    @property
    def outline(self) -> CausalModel:
        """The model's shapes."""
        return self._stands_for.outline

    @property
    def max_length(self) -> int | None:
        """The model's context in tokens."""
        return self.outline.max_length

    def score(
        self,
        requests: Requests,
        *,
        token_logprobs: bool = False,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> ScoreBatch:
        """What `score_batch` gives for this scorer."""
        prepared = prepare(self, self.outline, requests, max_length)
        count = len(prepared)
        status = np.where(prepared.status == "ok", WORKER_DIED, prepared.status)
        missing = np.full(count, np.nan)
        arrays = [np.zeros(0, np.float32)] * count if token_logprobs else None
        stats = ScoreStats(sequences=count)
        return ScoreBatch(missing, missing.copy(), prepared.num_tokens, np.zeros(count, bool), status, arrays, stats)

    def mean_hidden_states(self, texts: Sequence[str], *, progress: ProgressLike = None) -> np.ndarray:
        """No embedding: NaN, float32 [n, hidden]."""
        return np.full((len(texts), self.outline.config.hidden_size), np.nan, np.float32)

    def plan(self, model: CausalModel, prepared: PreparedRequests) -> list[PlannedTree]:
        """The work that it would have been."""
        return self._stands_for.plan(model, prepared)
