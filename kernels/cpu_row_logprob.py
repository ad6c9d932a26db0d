"""`row_logprob` by the C++ module: one pass over the logits, all cores."""

from __future__ import annotations

import torch
from torch import Tensor

from .logprobs import Logprobs
from .native_arrays import Machine, array_of, bias_array, contiguous_array


def row_logprob(
    logits: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    argmax: bool,
) -> Logprobs:
    from . import _native

    logprob = torch.empty(rows.shape[0], dtype=torch.float32)
    logsumexp = torch.empty(logits.shape[0], dtype=torch.float32)
    best = torch.empty(logits.shape[0], dtype=torch.int64) if argmax else None
    _native.row_logprob(
        array_of(logits),
        array_of(rows.contiguous()),
        array_of(targets.contiguous()),
        contiguous_array(mask),
        bias_array(bias),
        scale,
        softcap or 0.0,
        logprob.numpy(),
        logsumexp.numpy(),
        None if best is None else best.numpy(),
        *Machine.now(),
    )
    return Logprobs(logprob, logsumexp, best)
