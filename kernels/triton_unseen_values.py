"""Triton: results of tree attention that are not finite, found again without the values that their rows do not see.

A kernel that multiplies tiles multiplies what a row does not see by a probability of 0, and 0 times an infinity is NaN.
"""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .attention_kinds import AttentionOptions
from .tree_segments import TreeSegments
from .triton_configurations import all_registers
from .triton_logits import LOG2_E, add_sinks, finite_offset, tanh_float
from .triton_row_blocks import UNALIGNED, UNSPECIALISED, device_arrays

BLOCK_ROWS = 8
NUM_WARPS = 2  # with 4, heads of 128 on sm_86 would spill 8 bytes in Triton 3.6


@triton.jit
def attend_key(
    queries,
    largest,
    total,
    out,
    key,
    value,
    distance,
    inside,
    scaling,
    softcap,
    window,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
):
    """Takes one key and value, `distance` positions before the rows' own, into the softmax of those that see it."""
    scores = tl.sum(queries * tl.load(key, mask=inside, other=0.0).to(tl.float32)[None, :], axis=1) * scaling
    if has_softcap:
        scores = softcap * tanh_float(scores / softcap)
    seen = distance >= 0
    if has_window:
        seen = seen & (distance < window)
    scores = tl.where(seen, scores, float("-inf"))
    new_largest = tl.maximum(largest, scores)
    offset = finite_offset(new_largest)
    probability = tl.exp2((scores - offset) * LOG2_E)
    shrink = tl.exp2((largest - offset) * LOG2_E)
    values = tl.load(value, mask=inside, other=0.0).to(tl.float32)
    added = tl.where(seen[:, None], probability[:, None] * values[None, :], 0.0)
    return new_largest, total * shrink + probability, out * shrink[:, None] + added


@triton.jit(do_not_specialize=UNSPECIALISED, do_not_specialize_on_alignment=UNALIGNED)
def unseen_values_kernel(
    query,
    key,
    value,
    result,
    sinks,
    block_node,
    block_first,
    query_offsets,
    context_offsets,
    context_start,
    context_stop,
    context_length,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    num_heads,
    num_cached,
    group,
    scaling,
    softcap,
    window,
    head_size,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    has_sinks: tl.constexpr,
    block_q: tl.constexpr,
    padded_head: tl.constexpr,
):
    node = tl.load(block_node + tl.program_id(0))
    first_row = tl.load(block_first + tl.program_id(0))
    key_head = tl.program_id(1).to(tl.int64)
    token = tl.load(query_offsets + node)
    num_tokens = tl.load(query_offsets + node + 1) - token
    row = first_row + tl.arange(0, block_q)
    row_token = row // group
    head = key_head * group + row % group
    lanes = tl.arange(0, padded_head)
    inside = lanes < head_size
    mask = (row_token < num_tokens)[:, None] & inside[None, :]
    to = ((token + row_token).to(tl.int64) * num_heads + head) * head_size
    found = tl.load(result + to[:, None] + lanes[None, :], mask=mask, other=0.0).to(tl.float32)
    wrong = mask & ~(tl.abs(found) < float("inf"))
    if tl.max(tl.max(wrong.to(tl.int32), axis=1), axis=0) == 0:
        return
    place = (token + row_token).to(tl.int64) * query_token_stride + head * query_head_stride
    queries = tl.load(query + place[:, None] + lanes[None, :], mask=mask, other=0.0).to(tl.float32)
    largest = tl.full((block_q,), float("-inf"), tl.float32)
    total = tl.zeros((block_q,), tl.float32)
    out = tl.zeros((block_q, padded_head), tl.float32)
    key += key_head * key_head_stride + lanes
    value += key_head * value_head_stride + lanes
    distance = tl.load(context_length + node) + row_token
    for entry in range(tl.load(context_offsets + node), tl.load(context_offsets + node + 1)):
        start = tl.load(context_start + entry)
        key_row = key + start.to(tl.int64) * key_token_stride
        value_row = value + start.to(tl.int64) * value_token_stride
        for _ in range(start, tl.load(context_stop + entry)):
            largest, total, out = attend_key(
                queries, largest, total, out, key_row, value_row, distance, inside, scaling, softcap, window,
                has_softcap, has_window,
            )  # fmt: skip
            key_row += key_token_stride
            value_row += value_token_stride
            distance -= 1
    key_row = key + (num_cached + token).to(tl.int64) * key_token_stride
    value_row = value + (num_cached + token).to(tl.int64) * value_token_stride
    for _ in range(0, tl.minimum((first_row + block_q - 1) // group + 1, num_tokens)):
        largest, total, out = attend_key(
            queries, largest, total, out, key_row, value_row, distance, inside, scaling, softcap, window, has_softcap,
            has_window,
        )  # fmt: skip
        key_row += key_token_stride
        value_row += value_token_stride
        distance -= 1
    if has_sinks:
        total = add_sinks(largest, total, tl.load(sinks + head))
    tl.store(result + to[:, None] + lanes[None, :], (out / total[:, None]).to(result.dtype.element_ty), mask=wrong)


def leave_out_unseen(
    query: Tensor, key: Tensor, value: Tensor, result: Tensor, segments: TreeSegments, options: AttentionOptions
) -> None:
    """Elements of a contiguous `result` of tree attention that are not finite, in place; all others keep their bits."""
    scaling, window, softcap, sinks = options
    heads, head_size = query.shape[1:]
    group = heads // key.shape[1]
    padded_head = max(16, triton.next_power_of_2(head_size))
    arrays = device_arrays(segments, query.device, group, BLOCK_ROWS)
    unseen_values_kernel[(arrays[0].shape[0], key.shape[1])](
        query,
        key,
        value,
        result,
        sinks,
        *arrays,
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        heads,
        key.shape[0] - query.shape[0],
        group,
        scaling,
        softcap or 1.0,
        window or 0,
        head_size,
        has_softcap=softcap is not None,
        has_window=window is not None,
        has_sinks=sinks is not None,
        block_q=BLOCK_ROWS,
        padded_head=padded_head,
        num_warps=NUM_WARPS,
        enable_fp_fusion=True,
        **all_registers(),
    )
