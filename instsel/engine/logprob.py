"""Hidden rows and the head to the log-probabilities of (row, target) pairs.

Results come back as a function that waits for them, so that a GPU can be given its next pack before this one's
numbers are read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from instsel.engine.model import Head
from instsel.kernels import Logprobs, linear_logprob, row_logprob

PairValues = Callable[[], tuple[np.ndarray, np.ndarray]]


def pair_logprobs(hidden: Tensor, head: Head, rows: np.ndarray, targets: np.ndarray, *, backend: str) -> PairValues:
    """Log-probability (float32) of each pair and whether its target is its row's arg max; rows index `hidden`."""
    row, target = _to_device(rows, hidden), _to_device(targets, hidden)
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
    )
    return _to_host(out, row, target)


def pair_logprobs_of_logits(logits: Tensor, rows: np.ndarray, targets: np.ndarray, *, backend: str) -> PairValues:
    """The same from logits [R, V] that the model computed itself."""
    row, target = _to_device(rows, logits), _to_device(targets, logits)
    return _to_host(row_logprob(logits, row, target, argmax=True, backend=backend), row, target)


def _to_device(index: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(index).to(like.device, non_blocking=True)


def _to_host(out: Logprobs, row: Tensor, target: Tensor) -> PairValues:
    """One copy back: the log-probabilities with the arg max comparison in the same buffer."""
    assert out.argmax is not None
    greedy = (out.argmax[row] == target).to(torch.float32)
    both = torch.stack([out.logprob.float(), greedy])
    if both.device.type != "cuda":
        return lambda: (both[0].numpy(), both[1].numpy() > 0)
    # The copy is put in line here: asked for later, it would wait behind the next pack.
    host = torch.empty(both.shape, dtype=both.dtype, pin_memory=True).copy_(both, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> tuple[np.ndarray, np.ndarray]:
        copied.synchronize()
        return host[0].numpy(), host[1].numpy() > 0

    return wait
