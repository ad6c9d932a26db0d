"""`row_logprob` by the C++ module: one pass over the logits, all cores."""

from __future__ import annotations

import torch
from torch import Tensor

from .logprobs import HeadTransform, Logprobs, Pairs
from .native_arrays import Machine, array_of, contiguous_array


def row_logprob(logits: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool) -> Logprobs:
    from . import _native

    logprob = torch.empty(len(pairs.rows), dtype=torch.float32)
    logsumexp = torch.empty(logits.shape[0], dtype=torch.float32)
    best = torch.empty(logits.shape[0], dtype=torch.int64) if argmax else None
    _native.row_logprob(
        array_of(logits),
        array_of(pairs.rows),
        array_of(pairs.targets),
        contiguous_array(pairs.mask),
        contiguous_array(head.bias),
        head.scale,
        head.softcap or 0.0,
        logprob.numpy(),
        logsumexp.numpy(),
        None if best is None else best.numpy(),
        *Machine.now(),
    )
    return Logprobs(logprob, logsumexp, best)
