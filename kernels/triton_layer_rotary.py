"""Triton: the rotary embedding of heads, written over them, with the roundings of the models' own code."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # pairs of numbers that a program turns at a time


@triton.jit
def turn_heads(
    token,
    x,
    x_stride,
    head_stride,
    heads,
    first,
    second,
    there,
    cos_1,
    cos_2,
    sin_1,
    sin_2,
    rounded: tl.constexpr,
    block_h: tl.constexpr,
):
    for start in range(0, heads, block_h):
        head = start + tl.arange(0, block_h)
        inside = (head < heads)[:, None] & there[None, :]
        at = x + token * x_stride + (head.to(tl.int64) * head_stride)[:, None]
        one = tl.load(at + first[None, :], mask=inside, other=0.0)
        other = tl.load(at + second[None, :], mask=inside, other=0.0)
        kind = one.dtype
        a, b = one.to(tl.float32), other.to(tl.float32)
        # Both products are rounded before their sum, as `x * cos + rotate_half(x) * sin` does in the tables' dtype.
        turned_1 = (a * cos_1).to(rounded).to(tl.float32) + (-b * sin_1).to(rounded).to(tl.float32)
        turned_2 = (b * cos_2).to(rounded).to(tl.float32) + (a * sin_2).to(rounded).to(tl.float32)
        tl.store(at + first[None, :], turned_1.to(kind), mask=inside)
        tl.store(at + second[None, :], turned_2.to(kind), mask=inside)


@triton.jit
def layer_rotary_kernel(
    x,
    more,
    cos,
    sin,
    x_stride,
    head_stride,
    more_stride,
    more_head_stride,
    cos_stride,
    sin_stride,
    heads,
    more_heads,
    half,
    interleaved: tl.constexpr,
    block_h: tl.constexpr,
    block_d: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    pair = tl.arange(0, block_d)
    there = pair < half
    first = 2 * pair if interleaved else pair
    second = 2 * pair + 1 if interleaved else pair + half
    rounded: tl.constexpr = cos.dtype.element_ty
    cos_1 = tl.load(cos + token * cos_stride + first, mask=there, other=0.0).to(tl.float32)[None, :]
    cos_2 = tl.load(cos + token * cos_stride + second, mask=there, other=0.0).to(tl.float32)[None, :]
    sin_1 = tl.load(sin + token * sin_stride + first, mask=there, other=0.0).to(tl.float32)[None, :]
    sin_2 = tl.load(sin + token * sin_stride + second, mask=there, other=0.0).to(tl.float32)[None, :]
    turn_heads(
        token, x, x_stride, head_stride, heads, first, second, there, cos_1, cos_2, sin_1, sin_2, rounded, block_h
    )
    turn_heads(
        token, more, more_stride, more_head_stride, more_heads, first, second, there, cos_1, cos_2, sin_1, sin_2,
        rounded, block_h,
    )  # fmt: skip


def rotate(x: Tensor, more: Tensor | None, cos: Tensor, sin: Tensor, *, interleaved: bool) -> None:
    """x [T, heads, d], and perhaps other heads, by tables [T, r], all with a contiguous last dimension."""
    tokens, heads, _ = x.shape
    if tokens * heads == 0:
        return
    half = cos.shape[1] // 2
    block_d = triton.next_power_of_2(half)
    other = x if more is None else more
    layer_rotary_kernel[(tokens,)](
        x,
        other,
        cos,
        sin,
        x.stride(0),
        x.stride(1),
        other.stride(0),
        other.stride(1),
        cos.stride(0),
        sin.stride(0),
        heads,
        0 if more is None else other.shape[1],
        half,
        interleaved=interleaved,
        block_h=max(1, TILE // block_d),
        block_d=block_d,
        num_warps=4,
        enable_fp_fusion=False,
    )
