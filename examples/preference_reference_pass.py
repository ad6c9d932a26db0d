"""The reference pass of a preference-training loss (DPO) without a [tokens, vocabulary] tensor of log-probabilities.

    python examples/preference_reference_pass.py

`sequence_logprobs` takes the place of the `log_softmax(...).gather(...)` that such trainers have: labels of -100 are
left out, and hidden states go in instead of logits, so that the logits are never in memory either. It computes no
gradient: it is for the frozen reference model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from instsel.kernels import linear_logprob

IGNORED = -100


@torch.inference_mode()
def sequence_logprobs(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Summed log-probability of each sequence's labels: hidden [B, T, H], head [V, H], labels [B, T] -> [B] float64."""
    labels = labels[:, 1:]
    keep = labels != IGNORED
    # Only rows that predict a label go through the head.
    rows = hidden[:, :-1][keep]
    counts = keep.sum(1)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    targets = labels[keep]
    result = linear_logprob(rows, head, torch.arange(len(targets)), targets, offsets=offsets)
    assert result.sum is not None
    return result.sum


def usual_logprobs(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """What it replaces."""
    logits = (hidden @ head.T).float()[:, :-1]
    labels = labels[:, 1:]
    keep = labels != IGNORED
    per_token = torch.log_softmax(logits, dim=-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return (per_token * keep).sum(1)


def main() -> None:
    torch.manual_seed(0)
    batch, length, size, vocabulary = 4, 64, 128, 32_000
    hidden, head = torch.randn(batch, length, size), torch.randn(vocabulary, size) / size**0.5
    labels = torch.randint(0, vocabulary, (batch, length))
    labels[:, :20] = IGNORED  # the prompt
    labels[1, 50:] = IGNORED  # padding
    chosen_and_rejected = sequence_logprobs(hidden, head, labels)
    print("log-probabilities:", [f"{value:.4f}" for value in chosen_and_rejected.tolist()])
    difference = (chosen_and_rejected - usual_logprobs(hidden, head, labels)).abs().max()
    print("largest difference from log_softmax and gather:", f"{float(difference):.1e}")


if __name__ == "__main__":
    main()
