"""The specification of `row_logprob` and `linear_logprob` in plain PyTorch: float32 logits, `log_softmax`, a gather."""

from __future__ import annotations

import torch
from torch import Tensor

from .logprobs import Logprobs


def transform_logits(products: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    """What a head does to `h @ w.T`, in float32: add the bias, multiply by the scale, soft-cap."""
    z = products.float()
    if bias is not None:
        z = z + bias.float()
    z = z * scale
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def pair_logprobs(z: Tensor, rows: Tensor, targets: Tensor, mask: Tensor | None, argmax: bool) -> Logprobs:
    """Log-probabilities of pairs from transformed logits `z` float32 [R, V]."""
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
    result = pair_logprobs(transform_logits(logits, bias, scale, softcap), rows, targets, mask, argmax)
    unread = torch.ones(logits.shape[0], dtype=torch.bool, device=logits.device)
    unread[rows if mask is None else rows[mask]] = False
    result.logsumexp[unread] = float("nan")
    if result.argmax is not None:
        result.argmax[unread] = -1
    return result


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    argmax: bool,
    fused: bool | str = "auto",
) -> Logprobs:
    """The logits are in memory whatever `fused` says."""
    z = transform_logits(hidden.float() @ weight.float().T, bias, scale, softcap)
    return pair_logprobs(z, rows, targets, mask, argmax)
