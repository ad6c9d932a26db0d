"""One sequence at a time, logits for every position, each request once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedModel
from workloads import Workload

BATCH_SIZES = (1,)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Nothing to set up."""
    return lambda: np.array([mean_logprob(model, *request) for request in work.requests])


@torch.inference_mode()
def mean_logprob(model: PreTrainedModel, context: list[int], continuation: list[int]) -> float:
    """The model's own loss on the continuation, the context masked by label -100: how the released programs score."""
    ids = torch.tensor([context + continuation], device=model.device)
    labels = ids.clone()
    labels[0, : len(context)] = -100
    return -model(input_ids=ids, labels=labels).loss.item()
