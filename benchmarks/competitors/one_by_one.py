"""The released programs' way: one sequence at a time, and the answer's perplexity alone computed anew for each pair."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel
from workloads import BOS, Workload

from competitors.one_by_one_lean import mean_logprob

BATCH_SIZES = (1,)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Nothing to set up."""

    def score() -> np.ndarray:
        scores = []
        for (context, continuation), recomputed in zip(work.requests, work.recomputed, strict=True):
            scores.append(mean_logprob(model, context, continuation))
            if recomputed:
                mean_logprob(model, [BOS], continuation)
        return np.array(scores)

    return score
