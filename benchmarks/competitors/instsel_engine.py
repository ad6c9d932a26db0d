"""instsel: `score_batch` on all requests at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel
from workloads import Workload

import instsel

BATCH_SIZES = (0,)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Loads and checks the model; a batch size other than 0 is the token budget of a pack."""
    scorer = instsel.Scorer(model, max_batch_tokens=batch_size or "auto")
    instsel.score_batch(scorer, work.requests[:1])
    return lambda: instsel.score_batch(scorer, work.requests).mean_logprob
