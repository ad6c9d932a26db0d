"""`tree_attention` in Triton: a block of a node's queries walks its ancestors' key ranges and then its own."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .attention_kinds import AttentionOptions
from .tree_segments import TreeSegments
from .triton_configurations import attention_configuration
from .triton_logits import LOG2_E, add_sinks, finite_offset, tanh_float
from .triton_row_blocks import UNALIGNED, UNSPECIALISED, device_arrays
from .triton_unseen_values import leave_out_unseen


@triton.jit
def attend_range(
    queries,
    largest,
    total,
    out,
    key,
    value,
    key_stride,
    value_stride,
    start,
    stop,
    path_position,
    row_position,
    scaling,
    softcap,
    window,
    head_size,
    causal: tl.constexpr,
    has_softcap: tl.constexpr,
    has_window: tl.constexpr,
    even_head: tl.constexpr,
    precision: tl.constexpr,
    block_k: tl.constexpr,
    padded_head: tl.constexpr,
):
    """Takes the keys `start:stop`, the first of which is at `path_position`, into the running softmax."""
    lanes = tl.arange(0, padded_head)
    entries = tl.arange(0, block_k)
    for first in range(start, stop, block_k):
        index = first + entries
        inside = index < stop
        mask = inside[:, None] if even_head else inside[:, None] & (lanes < head_size)[None, :]
        rows = index.to(tl.int64)[:, None]
        keys = tl.load(key + rows * key_stride + lanes[None, :], mask=mask, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=precision) * scaling
        if has_softcap:
            scores = softcap * tanh_float(scores / softcap)
        seen = inside[None, :]
        distance = row_position[:, None] - (path_position + first - start + entries)[None, :]
        if causal:
            seen = seen & (distance >= 0)
        if has_window:
            seen = seen & (distance < window)
        scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, axis=1))
        offset = finite_offset(new_largest)
        probabilities = tl.exp2((scores - offset[:, None]) * LOG2_E)
        shrink = tl.exp2((largest - offset) * LOG2_E)
        total = total * shrink + tl.sum(probabilities, axis=1)
        values = tl.load(value + rows * value_stride + lanes[None, :], mask=mask, other=0.0)
        out = tl.dot(probabilities.to(values.dtype), values, out * shrink[:, None], input_precision=precision)
        largest = new_largest
    return largest, total, out


@triton.jit(do_not_specialize=UNSPECIALISED, do_not_specialize_on_alignment=UNALIGNED)
def tree_attention_kernel(
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
    even_head: tl.constexpr,
    precision: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    padded_head: tl.constexpr,
):
    node = tl.load(block_node + tl.program_id(0))
    first_row = tl.load(block_first + tl.program_id(0))
    key_head = tl.program_id(1).to(tl.int64)
    token = tl.load(query_offsets + node)
    num_tokens = tl.load(query_offsets + node + 1) - token
    context = tl.load(context_length + node)
    # A row is a (token, head of the group) pair: short nodes fill a tile with the heads that share their keys.
    row = first_row + tl.arange(0, block_q)
    row_token = row // group
    used = row_token < num_tokens
    row_position = context + row_token
    lanes = tl.arange(0, padded_head)
    mask = used[:, None] if even_head else used[:, None] & (lanes < head_size)[None, :]
    head = key_head * group + row % group
    place = (token + row_token).to(tl.int64) * query_token_stride + head * query_head_stride
    queries = tl.load(query + place[:, None] + lanes[None, :], mask=mask, other=0.0)
    key += key_head * key_head_stride
    value += key_head * value_head_stride
    largest = tl.full((block_q,), float("-inf"), tl.float32)
    total = tl.zeros((block_q,), tl.float32)
    out = tl.zeros((block_q, padded_head), tl.float32)
    position = tl.full((), 0, tl.int32)
    for entry in range(tl.load(context_offsets + node), tl.load(context_offsets + node + 1)):
        start = tl.load(context_start + entry)
        stop = tl.load(context_stop + entry)
        largest, total, out = attend_range(
            queries, largest, total, out, key, value, key_token_stride, value_token_stride, start, stop, position,
            row_position, scaling, softcap, window, head_size, False, has_softcap, has_window, even_head, precision,
            block_k, padded_head,
        )  # fmt: skip
        position += stop - start
    own = num_cached + token
    last_token = tl.minimum((first_row + block_q - 1) // group, num_tokens - 1)
    largest, total, out = attend_range(
        queries, largest, total, out, key, value, key_token_stride, value_token_stride, own, own + last_token + 1,
        context, row_position, scaling, softcap, window, head_size, True, has_softcap, has_window, even_head, precision,
        block_k, padded_head,
    )  # fmt: skip
    to = ((token + row_token).to(tl.int64) * num_heads + head) * head_size
    if has_sinks:
        total = add_sinks(largest, total, tl.load(sinks + head))
    out = out / total[:, None]
    tl.store(result + to[:, None] + lanes[None, :], out.to(result.dtype.element_ty), mask=mask)


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: TreeSegments,
    options: AttentionOptions,
    *,
    find_again: bool = True,
) -> Tensor:
    scaling, window, softcap, sinks = options
    result = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if query.shape[0] == 0:
        return result
    heads, head_size = query.shape[1:]
    padded_head = max(16, triton.next_power_of_2(head_size))
    configuration = attention_configuration(query.device, query.dtype, padded_head, sinks=sinks is not None)
    group = heads // key.shape[1]
    arrays = device_arrays(segments, query.device, group, configuration.block_q)
    tree_attention_kernel[(arrays[0].shape[0], key.shape[1])](
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
        even_head=head_size == padded_head,
        precision="ieee",
        block_q=configuration.block_q,
        block_k=configuration.block_k,
        padded_head=padded_head,
        **configuration.options(),
        enable_fp_fusion=True,
    )
    if find_again:
        leave_out_unseen(query, key, value, result, segments, options)
    return result
