"""Batches of similar lengths, padded on the right, logits for every position."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from workloads import Workload

BATCH_SIZES = (2, 4, 8, 16)
GPU_BATCH_SIZES = (8, 16, 32, 64)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Nothing to set up."""
    return lambda: score_padded(model, work.requests, batch_size)


@torch.inference_mode()
def score_padded(
    model: PreTrainedModel, requests: Sequence[tuple[list[int], list[int]]], batch_size: int
) -> np.ndarray:
    """Mean log-probability of each continuation, longest sequences first."""
    sequences = [context + continuation for context, continuation in requests]
    scores = np.zeros(len(requests))
    order = sorted(range(len(requests)), key=lambda i: -len(sequences[i]))
    for begin in range(0, len(order), batch_size):
        chosen = order[begin : begin + batch_size]
        ids, mask = pad([sequences[i] for i in chosen], model.device)
        logits = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1]).logits
        first = torch.tensor([len(requests[i][0]) - 1 for i in chosen], device=model.device)
        scores[chosen] = mean_of_targets(logits, ids[:, 1:], mask[:, 1:], first)
    return scores


def pad(sequences: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and their mask, [batch, longest]."""
    longest = max(len(s) for s in sequences)
    ids = torch.tensor([s + [0] * (longest - len(s)) for s in sequences], device=device)
    mask = torch.tensor([[1] * len(s) + [0] * (longest - len(s)) for s in sequences], device=device)
    return ids, mask


def mean_of_targets(logits: Tensor, targets: Tensor, mask: Tensor, first: Tensor) -> np.ndarray:
    """Mean over each row's targets from `first` on of their log-probabilities."""
    wanted = (mask > 0) & (torch.arange(targets.shape[1], device=targets.device) >= first[:, None])
    labels = torch.where(wanted, targets, -100)
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
    return -(losses.sum(1) / wanted.sum(1)).double().cpu().numpy()
