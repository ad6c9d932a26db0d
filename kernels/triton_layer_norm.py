"""Triton: a residual sum and the norm of its rows in one pass over memory."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

TILE = 2048  # numbers of a program where rows are shorter


@triton.jit(do_not_specialize=["num_rows", "inner"])  # they vary, and each variant would be compiled anew
def layer_norm_kernel(
    hidden,
    added,
    weight,
    bias,
    out,
    hidden_stride,
    added_stride,
    out_stride,
    hidden_inner,
    out_inner,
    num_rows,
    inner,
    columns,
    epsilon,
    offset,
    has_added: tl.constexpr,
    has_bias: tl.constexpr,
    centred: tl.constexpr,
    rounds_first: tl.constexpr,
    block_r: tl.constexpr,
    block_h: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64) * block_r + tl.arange(0, block_r)
    column = tl.arange(0, block_h)
    inside = (place < num_rows)[:, None] & (column < columns)[None, :]
    outer, within = place // inner, place % inner
    at = hidden + (outer * hidden_stride + within * hidden_inner)[:, None] + column[None, :]
    x = tl.load(at, mask=inside, other=0.0)
    kind = x.dtype
    x = x.to(tl.float32)
    if has_added:
        more = added + (place * added_stride)[:, None] + column[None, :]
        # Rounded as the sum is that the next layer reads.
        x = (x + tl.load(more, mask=inside, other=0.0).to(tl.float32)).to(kind)
        tl.store(at, x, mask=inside)
        x = x.to(tl.float32)
    if centred:
        x = tl.where(inside, x - (tl.sum(x, axis=1) / columns)[:, None], 0.0)
    variance = tl.sum(x * x, axis=1) / columns
    normed = x * (1.0 / tl.sqrt_rn(variance + epsilon))[:, None]
    if rounds_first:
        normed = normed.to(kind).to(tl.float32)
    factor = tl.load(weight + column, mask=column < columns, other=0.0).to(tl.float32) + offset
    normed = normed * factor[None, :]
    if has_bias:
        normed += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    to = out + (outer * out_stride + within * out_inner)[:, None] + column[None, :]
    tl.store(to, normed.to(kind), mask=inside)


def layer_norm(
    hidden: Tensor,
    weight: Tensor,
    epsilon: float,
    *,
    added: Tensor | None,
    bias: Tensor | None,
    offset: float,
    centred: bool,
    rounds_first: bool,
    out: Tensor,
) -> None:
    """`hidden` and `out` [T, heads, H], `added` [T, H] with one head; the last dimension is contiguous."""
    tokens, heads, columns = hidden.shape
    if tokens * heads == 0:
        return
    # From the row's size alone, so that a row's bits do not depend on its company.
    block_h = triton.next_power_of_2(columns)
    block_r = max(1, TILE // block_h)
    layer_norm_kernel[(triton.cdiv(tokens * heads, block_r),)](
        hidden,
        hidden if added is None else added,
        weight,
        weight if bias is None else bias,
        out,
        hidden.stride(0),
        0 if added is None else added.stride(0),
        out.stride(0),
        hidden.stride(1),
        out.stride(1),
        tokens * heads,
        heads,
        columns,
        epsilon,
        offset,
        has_added=added is not None,
        has_bias=bias is not None,
        centred=centred,
        rounds_first=rounds_first,
        block_r=block_r,
        block_h=block_h,
        num_warps=min(32, max(4, block_r * block_h // 512)),
        enable_fp_fusion=False,
    )
