"""Triton: maximum, sum of exp(z - maximum) and arg max of each row of logits, one program a row, one read."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .logprobs import HeadTransform
from .triton_logits import LOG2_E, finite_offset, transform_logits

# 16 warps' worth of 16-byte loads in flight; one reduction across warps per block. Powers of two.
BLOCK_V = 8192
NUM_WARPS = 8


# Of a chunk of rows the states stand anywhere in the array of all, and are written an entry at a time.
@triton.jit(
    do_not_specialize=["first_column"], do_not_specialize_on_alignment=["needed", "maxima", "sums", "argmaxima"]
)
def row_states_kernel(
    logits,
    bias,
    needed,
    maxima,
    sums,
    argmaxima,
    row_stride,
    num_columns,
    first_column,
    scale,
    softcap,
    has_bias: tl.constexpr,
    has_needed: tl.constexpr,
    has_transform: tl.constexpr,
    has_softcap: tl.constexpr,
    has_argmax: tl.constexpr,
    block_v: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    if has_needed:  # noqa: SIM102 (settled at compile time)
        if tl.load(needed + row) == 0:
            return
    start_of_row = logits + row * row_stride
    columns = tl.arange(0, block_v)
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    best_block = tl.full((), 0, tl.int32)
    for start in range(0, num_columns, block_v):
        inside = start + columns < num_columns
        z = tl.load(start_of_row + start + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if has_transform:
            offset = 0.0
            if has_bias:
                offset = tl.load(bias + first_column + start + columns, mask=inside, other=0.0)
            z = tl.where(inside, transform_logits(z, offset, scale, softcap, has_softcap), float("-inf"))
        block_max = tl.max(z, axis=0)
        best_block = tl.where(block_max > largest, start, best_block)
        new_largest = tl.maximum(largest, block_max)
        offset_now = finite_offset(new_largest)
        block_sum = tl.sum(tl.exp2((z - offset_now) * LOG2_E), axis=0)
        total = total * tl.exp2((largest - offset_now) * LOG2_E) + block_sum
        largest = new_largest
    tl.store(maxima + row, largest)
    tl.store(sums + row, total)
    if has_argmax:
        # Only the block that raised the maximum last is read again: cheaper than carrying indices along.
        inside = best_block + columns < num_columns
        z = tl.load(start_of_row + best_block + columns, mask=inside, other=float("-inf")).to(tl.float32)
        if has_transform:
            offset = 0.0
            if has_bias:
                offset = tl.load(bias + first_column + best_block + columns, mask=inside, other=0.0)
            z = tl.where(inside, transform_logits(z, offset, scale, softcap, has_softcap), float("-inf"))
        where = tl.where(z == largest, columns, block_v)
        tl.store(argmaxima + row, (first_column + best_block + tl.min(where, axis=0)).to(tl.int64))


def row_states(
    logits: Tensor,
    needed: Tensor | None,
    head: HeadTransform,
    first_column: int,
    out: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """States of the rows of `logits`, whose column 0 is `first_column` of the vocabulary, into `out` (each [rows])."""
    maxima, sums, argmaxima = out
    if logits.shape[0] == 0:
        return
    block_v = min(BLOCK_V, max(16, triton.next_power_of_2(logits.shape[1])))
    row_states_kernel[(logits.shape[0],)](
        logits,
        logits if head.bias is None else head.bias,
        logits if needed is None else needed,
        maxima,
        sums,
        maxima if argmaxima is None else argmaxima,
        logits.stride(0),
        logits.shape[1],
        first_column,
        head.scale,
        head.softcap or 1.0,
        has_bias=head.bias is not None,
        has_needed=needed is not None,
        has_transform=not head.is_identity,
        has_softcap=head.softcap is not None,
        has_argmax=argmaxima is not None,
        block_v=block_v,
        num_warps=NUM_WARPS if block_v >= 2048 else 4,
        enable_fp_fusion=True,
    )


def empty_states(shape: tuple[int, ...], argmax: bool, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """States of rows that were not read: maximum -inf, sum NaN (so that their log-sum-exp is NaN), arg max -1."""
    return (
        torch.full(shape, float("-inf"), dtype=torch.float32, device=device),
        torch.full(shape, float("nan"), dtype=torch.float32, device=device),
        torch.full(shape, -1, dtype=torch.int64, device=device) if argmax else None,
    )
