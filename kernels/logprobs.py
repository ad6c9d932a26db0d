"""The result that `row_logprob` and `linear_logprob` share, and its sums over sequences."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """(row, target) pairs, contiguous int64 [P] each, and which of them count, bool [P] or all."""

    rows: Tensor
    targets: Tensor
    mask: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, mask: Tensor | None) -> Pairs:
        return cls(rows.contiguous(), targets.contiguous(), None if mask is None else mask.contiguous())


class HeadTransform(NamedTuple):
    """What a head does to products: adds the bias, contiguous float32 [V], multiplies by the scale, soft-caps."""

    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, bias: Tensor | None, scale: float, softcap: float | None) -> HeadTransform:
        return cls(None if bias is None else bias.detach().float().contiguous(), float(scale), softcap)

    @property
    def is_identity(self) -> bool:
        return self.bias is None and self.scale == 1.0 and self.softcap is None


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of pairs (row, target), in nats.

    logprob    float32 [P]: `z[row, target] - logsumexp(z[row])`; NaN where the pair is masked.
    logsumexp  float32 [R]: one per row of logits. `row_logprob` leaves NaN in rows that no unmasked pair refers to.
    argmax     int64 [R], if asked for: the first index of the largest `z`; -1 where `logsumexp` is not finite.
    sum, mean  float64 [S], if offsets were given: over the unmasked pairs of each sequence; an empty sequence has
               sum 0 and mean NaN.
    """

    logprob: Tensor
    logsumexp: Tensor
    argmax: Tensor | None = None
    sum: Tensor | None = None
    mean: Tensor | None = None


def sequence_sums(logprob: Tensor, offsets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and mean of the unmasked `logprob` between consecutive `offsets`, in float64 and in the order of the pairs.

    Each sequence is added up by itself from left to right, so its value does not depend on what else is in the batch.
    """
    values = logprob.double()
    counted = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    if mask is not None:
        values = torch.where(mask, values, torch.zeros_like(values))
    # segment_reduce adds each segment in a fixed order; index_add_ would use atomics on a GPU.
    total = torch.segment_reduce(values, "sum", offsets=offsets, initial=0.0)
    count = torch.segment_reduce(counted, "sum", offsets=offsets, initial=0.0)
    return total, total / count


def with_sequences(result: Logprobs, offsets: Tensor, mask: Tensor | None, *, backend: str) -> Logprobs:
    """The result with the sums and means of the sequences between consecutive `offsets`."""
    if backend == "triton":
        from .triton_pairs import sequence_sums as sums
    else:
        sums = sequence_sums
    total, mean = sums(result.logprob, offsets, mask)
    return dataclasses.replace(result, sum=total, mean=mean)
