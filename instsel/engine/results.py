"""What `score_batch` and `plan_batch` give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instsel.engine.result_table import ResultTable

STATUSES = ("ok", "unreadable", "empty_target", "too_long", "nonfinite", "out_of_memory", "worker_died")


@dataclass(frozen=True, slots=True)
class ScoreStats:
    """What a batch cost. Statistics of several batches add up with `+`."""

    sequences: int = 0
    tokens_forwarded: int = 0  # tokens that went through the model
    tokens_unshared: int = 0  # tokens that one forward per sequence, without its last token, would have sent through
    packs: int = 0  # forwards
    head_rows: int = 0  # distinct rows for which the head was computed
    pairs: int = 0  # distinct (row, target) pairs
    seconds: float = 0.0

    @property
    def sharing_factor(self) -> float:
        """Tokens of an unshared run over tokens forwarded; 1 where nothing was forwarded."""
        return self.tokens_unshared / self.tokens_forwarded if self.tokens_forwarded else 1.0

    def __add__(self, other: ScoreStats) -> ScoreStats:
        names = self.__dataclass_fields__
        return ScoreStats(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True)
class ScoreBatch(ResultTable):
    """Scores of a list of requests, in the order of the requests; also as a table, see `ResultTable`.

    mean_logprob    float64 [n], nats a token: `mean_t log p(y_t | x, y_<t)`; NaN unless status is "ok"
    sum_logprob     float64 [n], nats; NaN unless status is "ok"
    num_tokens      int64 [n], scored tokens
    is_greedy       bool [n], every scored token was the arg max
    status          str [n], one of `STATUSES`
    token_logprobs  a float32 array a request, where they were asked for (empty unless status is "ok")
    """

    mean_logprob: np.ndarray
    sum_logprob: np.ndarray
    num_tokens: np.ndarray
    is_greedy: np.ndarray
    status: np.ndarray
    token_logprobs: list[np.ndarray] | None
    stats: ScoreStats


@dataclass(frozen=True, slots=True)
class Plan:
    """What scoring a list of requests would take."""

    sequences: int
    tokens_forwarded: int
    tokens_unshared: int
    packs: int
    head_rows: int
    pairs: int
    estimated_flops: float

    @property
    def sharing_factor(self) -> float:
        """Tokens of an unshared run over tokens to forward; 1 where nothing is to be forwarded."""
        return self.tokens_unshared / self.tokens_forwarded if self.tokens_forwarded else 1.0
