"""The specification of `row_logprob` and `linear_logprob` in plain PyTorch: float32 logits, `log_softmax`, a gather."""

from __future__ import annotations

import torch
from torch import Tensor

from .logprobs import HeadTransform, Logprobs, Pairs


def transform_logits(products: Tensor, head: HeadTransform) -> Tensor:
    """What a head does to `h @ w.T`, in float32."""
    z = products.float()
    if head.bias is not None:
        z = z + head.bias
    z = z * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def pair_logprobs(z: Tensor, pairs: Pairs, argmax: bool) -> Logprobs:
    """Log-probabilities of pairs from transformed logits `z` float32 [R, V]."""
    rows, targets, mask = pairs
    log_probabilities = torch.log_softmax(z, dim=-1)
    logsumexp = torch.logsumexp(z, dim=-1)
    used = torch.ones_like(rows, dtype=torch.bool) if mask is None else mask
    logprob = torch.full(rows.shape, float("nan"), dtype=torch.float32, device=z.device)
    logprob[used] = log_probabilities[rows[used], targets[used]]
    best = None
    if argmax:
        best = torch.where(torch.isfinite(logsumexp), first_argmax(z), -1)
    return Logprobs(logprob, logsumexp, best)


def first_argmax(z: Tensor) -> Tensor:
    """The lowest index of each row's maximum (torch.argmax does not promise which of several equal ones it takes)."""
    return (z == z.amax(dim=-1, keepdim=True)).int().argmax(dim=-1)


def row_logprob(logits: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool) -> Logprobs:
    result = pair_logprobs(transform_logits(logits, head), pairs, argmax)
    unread = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    unread[pairs.rows if pairs.mask is None else pairs.rows[pairs.mask]] = False
    result.logsumexp[unread] = float("nan")
    if result.argmax is not None:
        result.argmax[unread] = -1
    return result


def linear_logprob(
    hidden: Tensor, weight: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool, fused: bool | str
) -> Logprobs:
    """The logits are in memory whatever `fused` says."""
    return pair_logprobs(transform_logits(hidden.float() @ weight.float().T, head), pairs, argmax)
