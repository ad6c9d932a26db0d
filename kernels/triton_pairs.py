"""Triton: joining a row's partial states, the log-probabilities of pairs, and sums over sequences."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_logits import LOG2_E, LOG_2, finite_offset, transform_logits

BLOCK_ROWS = 128
BLOCK_PAIRS = 128
BLOCK_SEQUENCE = 128
# Callers' index arrays may begin anywhere, and little is read of them.
INDICES = ("rows", "targets", "mask")


@triton.jit(do_not_specialize=["num_rows"])
def join_states_kernel(
    maxima,
    sums,
    argmaxima,
    offsets,
    log_sums,
    logsumexps,
    best,
    num_rows,
    num_parts,
    has_argmax: tl.constexpr,
    block_rows: tl.constexpr,
):
    """Parts [parts, rows] of a row, added in order: the result does not depend on which finished first."""
    rows = tl.program_id(0).to(tl.int64) * block_rows + tl.arange(0, block_rows)
    inside = rows < num_rows
    largest = tl.full((block_rows,), float("-inf"), tl.float32)
    argmax = tl.full((block_rows,), -1, tl.int64)
    for part in range(num_parts):
        value = tl.load(maxima + part * num_rows + rows, mask=inside, other=float("-inf"))
        if has_argmax:
            index = tl.load(argmaxima + part * num_rows + rows, mask=inside, other=-1)
            argmax = tl.where(value > largest, index, argmax)
        largest = tl.maximum(largest, value)
    offset = finite_offset(largest)
    total = tl.zeros((block_rows,), tl.float32)
    for part in range(num_parts):
        value = tl.load(maxima + part * num_rows + rows, mask=inside, other=float("-inf"))
        part_sum = tl.load(sums + part * num_rows + rows, mask=inside, other=0.0)
        total += part_sum * tl.exp2((finite_offset(value) - offset) * LOG2_E)
    log_sum = tl.log2(total) * LOG_2
    logsumexp = offset + log_sum
    tl.store(offsets + rows, offset, mask=inside)
    tl.store(log_sums + rows, log_sum, mask=inside)
    tl.store(logsumexps + rows, logsumexp, mask=inside)
    if has_argmax:
        finite = tl.abs(logsumexp) < float("inf")
        tl.store(best + rows, tl.where(finite, argmax, -1), mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_pairs"], do_not_specialize_on_alignment=INDICES)
def pairs_from_logits_kernel(
    logits,
    bias,
    rows,
    targets,
    mask,
    offsets,
    log_sums,
    logprobs,
    row_stride,
    num_rows,
    num_columns,
    num_pairs,
    scale,
    softcap,
    has_bias: tl.constexpr,
    has_mask: tl.constexpr,
    has_softcap: tl.constexpr,
    block_pairs: tl.constexpr,
):
    pairs = tl.program_id(0).to(tl.int64) * block_pairs + tl.arange(0, block_pairs)
    inside = pairs < num_pairs
    row = tl.load(rows + pairs, mask=inside, other=-1)
    target = tl.load(targets + pairs, mask=inside, other=-1)
    valid = inside & (row >= 0) & (row < num_rows) & (target >= 0) & (target < num_columns)
    if has_mask:
        valid = valid & (tl.load(mask + pairs, mask=inside, other=0) != 0)
    z = tl.load(logits + row * row_stride + target, mask=valid, other=0.0).to(tl.float32)
    shift = 0.0
    if has_bias:
        shift = tl.load(bias + target, mask=valid, other=0.0)
    z = transform_logits(z, shift, scale, softcap, has_softcap)
    value = (z - tl.load(offsets + row, mask=valid, other=0.0)) - tl.load(log_sums + row, mask=valid, other=0.0)
    tl.store(logprobs + pairs, tl.where(valid, value, float("nan")), mask=inside)


@triton.jit(do_not_specialize=["num_rows"], do_not_specialize_on_alignment=INDICES)
def pairs_from_hidden_kernel(
    hidden,
    weight,
    bias,
    rows,
    targets,
    mask,
    offsets,
    log_sums,
    logprobs,
    hidden_stride,
    weight_stride,
    num_rows,
    num_columns,
    size,
    scale,
    softcap,
    has_bias: tl.constexpr,
    has_mask: tl.constexpr,
    has_softcap: tl.constexpr,
    block_h: tl.constexpr,
):
    """One pair a program: a float32 dot product, lane by lane and then over lanes, always in the same order."""
    pair = tl.program_id(0).to(tl.int64)
    given_row = tl.load(rows + pair)
    given_target = tl.load(targets + pair)
    row = tl.minimum(tl.maximum(given_row, 0), num_rows - 1)
    target = tl.minimum(tl.maximum(given_target, 0), num_columns - 1)
    valid = (row == given_row) & (target == given_target)
    if has_mask:
        valid = valid & (tl.load(mask + pair) != 0)
    lanes = tl.arange(0, block_h)
    total = tl.zeros((block_h,), tl.float32)
    for start in range(0, size, block_h):
        inside = start + lanes < size
        left = tl.load(hidden + row * hidden_stride + start + lanes, mask=inside, other=0.0).to(tl.float32)
        right = tl.load(weight + target * weight_stride + start + lanes, mask=inside, other=0.0).to(tl.float32)
        total += left * right
    z = tl.sum(total, axis=0)
    shift = 0.0
    if has_bias:
        shift = tl.load(bias + target)
    z = transform_logits(z, shift, scale, softcap, has_softcap)
    value = (z - tl.load(offsets + row)) - tl.load(log_sums + row)
    # The dot product's rounding differs from the row's own by an ulp, which must not give a probability above 1.
    value = tl.where(value > 0.0, 0.0, value)
    tl.store(logprobs + pair, tl.where(valid, value, float("nan")))


@triton.jit(do_not_specialize=["num_pairs"], do_not_specialize_on_alignment=["mask", "sequence_offsets"])
def sequence_sums_kernel(
    logprobs, mask, sequence_offsets, sums, means, num_pairs, has_mask: tl.constexpr, block: tl.constexpr
):
    """One sequence a program: float64, in a fixed order, so that it does not depend on the rest of the batch."""
    sequence = tl.program_id(0).to(tl.int64)
    first = tl.maximum(tl.load(sequence_offsets + sequence), 0)
    last = tl.minimum(tl.load(sequence_offsets + sequence + 1), num_pairs)
    lanes = tl.arange(0, block)
    total = tl.zeros((block,), tl.float64)
    count = tl.zeros((block,), tl.int64)
    for start in range(first, last, block):
        counted = start + lanes < last
        if has_mask:
            counted = counted & (tl.load(mask + start + lanes, mask=counted, other=0) != 0)
        total += tl.load(logprobs + start + lanes, mask=counted, other=0.0).to(tl.float64)
        count += counted.to(tl.int64)
    value = tl.sum(total, axis=0)
    number = tl.sum(count, axis=0)
    tl.store(sums + sequence, value)
    tl.store(means + sequence, tl.where(number > 0, value / tl.maximum(number, 1).to(tl.float64), float("nan")))


def join_states(maxima: Tensor, sums: Tensor, argmaxima: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """From states [parts, rows]: offset and log-sum (kept apart for the pairs), log-sum-exp, arg max."""
    parts, num_rows = maxima.shape
    offsets, log_sums, logsumexps = (torch.empty_like(maxima[0]) for _ in range(3))
    best = None if argmaxima is None else torch.empty_like(argmaxima[0])
    if num_rows:
        join_states_kernel[(triton.cdiv(num_rows, BLOCK_ROWS),)](
            maxima,
            sums,
            maxima if argmaxima is None else argmaxima,
            offsets,
            log_sums,
            logsumexps,
            maxima if best is None else best,
            num_rows,
            parts,
            has_argmax=best is not None,
            block_rows=BLOCK_ROWS,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return offsets, log_sums, logsumexps, best


def sequence_sums(logprob: Tensor, offsets: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sum and mean of each sequence's unmasked pairs."""
    offsets, mask = offsets.contiguous(), None if mask is None else mask.contiguous()
    count = offsets.shape[0] - 1
    sums, means = (torch.empty(count, dtype=torch.float64, device=offsets.device) for _ in range(2))
    if count:
        sequence_sums_kernel[(count,)](
            logprob,
            logprob if mask is None else mask.view(torch.uint8),
            offsets,
            sums,
            means,
            logprob.shape[0],
            has_mask=mask is not None,
            block=BLOCK_SEQUENCE,
            num_warps=1,
            enable_fp_fusion=True,
        )
    return sums, means
