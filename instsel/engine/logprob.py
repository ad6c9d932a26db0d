"""Hidden rows and the head to the log-probabilities of (row, target) pairs, on their way to the host.

What comes back is a function that waits for them, so that a GPU can be given its next pack before this one's numbers
are read: float32 [2, pairs], the log-probability of each and 1 where its target is its row's arg max, else 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from instsel.engine.model import Head
from instsel.kernels import Logprobs, linear_logprob, row_logprob
from instsel.kernels.devices import to_device, to_host

PairValues = Callable[[], np.ndarray]


def pair_logprobs(hidden: Tensor, head: Head, rows: np.ndarray, targets: np.ndarray, *, backend: str) -> PairValues:
    """Log-probability (float32) of each pair and whether its target is its row's arg max; rows index `hidden`."""
    row, target = (to_device(torch.from_numpy(index), hidden.device) for index in (rows, targets))
    out = linear_logprob(
        hidden,
        head.weight,
        row,
        target,
        bias=head.bias,
        scale=head.scale,
        softcap=head.softcap,
        argmax=True,
        backend=backend,
        fused=head.fused,
    )
    return _to_host(out, row, target)


def pair_logprobs_of_logits(logits: Tensor, rows: np.ndarray, targets: np.ndarray, *, backend: str) -> PairValues:
    """The same from logits [R, V] that the model computed itself."""
    row, target = (to_device(torch.from_numpy(index), logits.device) for index in (rows, targets))
    return _to_host(row_logprob(logits, row, target, argmax=True, backend=backend), row, target)


def _to_host(out: Logprobs, row: Tensor, target: Tensor) -> PairValues:
    """One copy back: the log-probabilities with the arg max comparison in the same buffer."""
    assert out.argmax is not None
    greedy = (out.argmax[row] == target).to(torch.float32)
    return to_host(torch.stack([out.logprob.float(), greedy]))
