"""Triton: states of hidden @ weight.T per row and split of the vocabulary; the logits stay in registers."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .logprobs import HeadTransform
from .triton_configurations import LinearConfiguration
from .triton_logits import LOG2_E, finite_offset, transform_logits


@triton.jit
def tile_products(
    hidden_tile,
    weight_tile,
    size,
    even_h: tl.constexpr,
    precision: tl.constexpr,
    block_r: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
):
    """One tile of products [block_r, block_v] in float32; the pointers walk along the hidden size."""
    lanes = tl.arange(0, block_h)
    products = tl.zeros((block_r, block_v), tl.float32)
    for start in range(0, size, block_h):
        if even_h:
            left = tl.load(hidden_tile)
            right = tl.load(weight_tile)
        else:
            inside = start + lanes < size
            left = tl.load(hidden_tile, mask=inside[None, :], other=0.0)
            right = tl.load(weight_tile, mask=inside[:, None], other=0.0)
        products = tl.dot(left, right, products, input_precision=precision)
        hidden_tile += block_h
        weight_tile += block_h
    return products


@triton.jit
def add_tile(z, largest, total, argmax, first_entry, has_argmax: tl.constexpr, block_v: tl.constexpr):
    """Takes a tile of logits into the rows' states."""
    tile_max = tl.max(z, axis=1)
    if has_argmax:
        entries = tl.arange(0, block_v)
        where = tl.min(tl.where(z == tile_max[:, None], entries[None, :], block_v), axis=1)
        argmax = tl.where(tile_max > largest, first_entry + where, argmax)
    new_largest = tl.maximum(largest, tile_max)
    offset = finite_offset(new_largest)
    tile_sum = tl.sum(tl.exp2((z - offset[:, None]) * LOG2_E), axis=1)
    total = total * tl.exp2((largest - offset) * LOG2_E) + tile_sum
    return new_largest, total, argmax


@triton.jit(do_not_specialize=["num_rows", "states_stride", "vocabulary"])
def linear_states_kernel(
    hidden,
    weight,
    bias,
    maxima,
    sums,
    argmaxima,
    hidden_stride,
    weight_stride,
    states_stride,
    num_rows,
    vocabulary,
    size,
    scale,
    softcap,
    has_bias: tl.constexpr,
    has_transform: tl.constexpr,
    has_softcap: tl.constexpr,
    has_argmax: tl.constexpr,
    even_h: tl.constexpr,
    precision: tl.constexpr,
    split: tl.constexpr,
    block_r: tl.constexpr,
    block_v: tl.constexpr,
    block_h: tl.constexpr,
):
    # Row blocks vary fastest: programs that run together read the same weights.
    rows = tl.program_id(0) * block_r + tl.arange(0, block_r)
    first = tl.program_id(1) * split
    last = tl.minimum(first + split, vocabulary)
    lanes = tl.arange(0, block_h)
    entries = tl.arange(0, block_v)
    # Rows past the end read the last row again and are not stored: no mask in the loop.
    row_index = tl.minimum(rows, num_rows - 1).to(tl.int64)
    hidden_tile = hidden + row_index[:, None] * hidden_stride + lanes[None, :]
    largest = tl.full((block_r,), float("-inf"), tl.float32)
    total = tl.zeros((block_r,), tl.float32)
    argmax = tl.full((block_r,), -1, tl.int32)
    whole = first + (last - first) // block_v * block_v
    for start in range(first, whole, block_v):
        index = (start + entries).to(tl.int64)
        weight_tile = weight + index[None, :] * weight_stride + lanes[:, None]
        z = tile_products(hidden_tile, weight_tile, size, even_h, precision, block_r, block_v, block_h)
        if has_transform:
            shift = 0.0
            if has_bias:
                shift = tl.load(bias + start + entries)[None, :]
            z = transform_logits(z, shift, scale, softcap, has_softcap)
        largest, total, argmax = add_tile(z, largest, total, argmax, start, has_argmax, block_v)
    if whole < last:
        # The ragged end, out of the main loop, whose registers a mask would spill.
        inside = whole + entries < last
        index = tl.minimum(whole + entries, vocabulary - 1).to(tl.int64)
        weight_tile = weight + index[None, :] * weight_stride + lanes[:, None]
        z = tile_products(hidden_tile, weight_tile, size, even_h, precision, block_r, block_v, block_h)
        if has_transform:
            shift = 0.0
            if has_bias:
                shift = tl.load(bias + index)[None, :]
            z = transform_logits(z, shift, scale, softcap, has_softcap)
        z = tl.where(inside[None, :], z, float("-inf"))
        largest, total, argmax = add_tile(z, largest, total, argmax, whole, has_argmax, block_v)
    out = tl.program_id(1).to(tl.int64) * states_stride + rows
    stored = rows < num_rows
    tl.store(maxima + out, largest, mask=stored)
    tl.store(sums + out, total, mask=stored)
    if has_argmax:
        tl.store(argmaxima + out, argmax.to(tl.int64), mask=stored)


def linear_states(
    hidden: Tensor,
    weight: Tensor,
    head: HeadTransform,
    split: int,
    configuration: LinearConfiguration,
    out: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """States [splits, rows] of rows; a split is `split` vocabulary entries (a multiple of the tile's)."""
    maxima, sums, argmaxima = out
    assert split % configuration.block_v == 0
    grid = (triton.cdiv(hidden.shape[0], configuration.block_r), triton.cdiv(weight.shape[0], split))
    linear_states_kernel[grid](
        hidden,
        weight,
        weight if head.bias is None else head.bias,
        maxima,
        sums,
        maxima if argmaxima is None else argmaxima,
        hidden.stride(0),
        weight.stride(0),
        maxima.stride(0),
        hidden.shape[0],
        weight.shape[0],
        hidden.shape[1],
        head.scale,
        head.softcap or 1.0,
        has_bias=head.bias is not None,
        has_transform=not head.is_identity,
        has_softcap=head.softcap is not None,
        has_argmax=argmaxima is not None,
        even_h=hidden.shape[1] % configuration.block_h == 0,
        # "ieee": a float32 product would otherwise be rounded to TF32; of no effect on 16-bit operands.
        precision="ieee",
        split=split,
        block_r=configuration.block_r,
        block_v=configuration.block_v,
        block_h=configuration.block_h,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        enable_fp_fusion=True,
    )
