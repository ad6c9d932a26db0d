"""Whether two ways of scoring gave the same numbers, judged by a float64 reference and the plain way's own error."""

from __future__ import annotations

from typing import Any

import models
import numpy as np
import torch
from competitors.one_by_one_lean import mean_logprob
from scipy.stats import spearmanr
from workloads import Workload, influence

# How many times the plain way's error another way may have. Of a mixture in half precision most of either comes of a
# few tokens for which two experts' scores are a rounding apart: errors of so few causes differ by chance, and that the
# ways compute the same is seen in float32, where rounding does not decide.
_LARGEST_RATIO = 2.0
_LARGEST_RATIO_OF_CHOICES = 5.0


class Reference:
    """Float64 scores of a few requests, and those of one sequence at a time in `dtype`, with the same weights."""

    def __init__(self, model: str, dtype: str, device: str, work: Workload, *, requests: int = 8) -> None:
        self.rows = np.unique(np.linspace(0, len(work) - 1, requests).round().astype(int))
        loaded = models.make_model(model, dtype, device=device)
        plain = self._scores(loaded, work)
        self.rounding_chooses = is_mixture(loaded) and dtype != "float32"
        if is_mixture(loaded):
            loaded.set_experts_implementation("eager")  # the others have no float64
        self.scores = self._scores(loaded.double(), work)
        del loaded
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()  # the contestants are other processes
        self.plain_error = _root_mean_square(plain - self.scores)

    def _scores(self, model: Any, work: Workload) -> np.ndarray:
        return np.array([mean_logprob(model, *work.requests[i]) for i in self.rows])

    def check(self, name: str, scores: np.ndarray) -> dict[str, float]:
        """Errors as a dictionary; ValueError where they exceed twice the plain way's (five times, where rounding
        chooses between experts), or a score is not finite."""
        largest = _LARGEST_RATIO_OF_CHOICES if self.rounding_chooses else _LARGEST_RATIO
        error = _root_mean_square(scores[self.rows] - self.scores)
        if not np.isfinite(scores).all():
            raise ValueError(f"{name}: {int((~np.isfinite(scores)).sum())} scores are not finite")
        if error > largest * self.plain_error + 1e-6:
            raise ValueError(f"{name}: error of {error:.2e} nats a token, the plain way has {self.plain_error:.2e}")
        return {"error": error, "plain_error": self.plain_error}


def is_mixture(model: Any) -> bool:
    """Whether a model's tokens choose between experts."""
    return hasattr(model.config, "num_experts_per_tok")


def compare_scores(work: Workload, one: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Largest difference in nats a token, and Spearman's correlation: of all scores, and of wICI's influences."""
    result: dict[str, float | None] = {
        "largest_difference": float(np.abs(one - other).max()),
        "spearman": float(spearmanr(one, other).statistic),
        "spearman_influence": None,
    }
    influences = influence(work, one), influence(work, other)
    if influences[0] is not None and influences[1] is not None:
        result["spearman_influence"] = float(spearmanr(*influences).statistic)
    return result


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
