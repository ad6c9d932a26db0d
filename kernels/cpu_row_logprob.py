"""`row_logprob` by the C++ module: one pass over the logits, all cores."""

from __future__ import annotations

import torch
from torch import Tensor

from .logprobs import HeadTransform, Logprobs, Pairs
from .native_arrays import Machine, array_of, head_arguments, pair_arguments


def row_logprob(logits: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool) -> Logprobs:
    from . import _native

    logprob = torch.empty(len(pairs.rows), dtype=torch.float32)
    logsumexp = torch.empty(logits.shape[0], dtype=torch.float32)
    best = torch.empty(logits.shape[0], dtype=torch.int64) if argmax else None
    _native.row_logprob(
        array_of(logits),
        *pair_arguments(pairs),
        *head_arguments(head),
        logprob.numpy(),
        logsumexp.numpy(),
        None if best is None else best.numpy(),
        *Machine.now(),
    )
    return Logprobs(logprob, logsumexp, best)
