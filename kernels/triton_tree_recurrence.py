"""Linear recurrences along a tree in Triton, chunk by chunk of a node's tokens: the delta rule, and scans without it.

With decays a and the state S before a chunk, that at its token i is a_1..a_i S + sum_{j <= i} a_(j+1)..a_i k_j u_j^T.
In a scan u is the value times its step size. By the delta rule u_i is beta_i (v_i - k_i^T a_i S_(i-1)): a triangular
system over the tokens of the chunk (the UT transform), solved by substitution, so that no token sees one behind it.
"""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tree_nodes import TreeNodes
from .triton_configurations import all_registers
from .triton_recurrence_chunks import add_decayed_products, load_state, row_of, store_state, sums_behind, sums_between
from .triton_tree_levels import tree_levels

CHUNK = 16  # tokens: as few as a product may have
BLOCK_KEYS = 32  # rows of a state that a product takes
BLOCK_VALUES = 32  # columns of a state, a program's own
NUM_WARPS = 4


@triton.jit
def tree_recurrence_kernel(
    query,
    key,
    value,
    decay,
    step,
    rate,
    skip,
    initial,
    states,
    kept,
    result,
    node_first,
    node_last,
    node_origin,
    node_place,
    node_kept,
    first_entry,
    heads,
    group,
    query_token_stride,
    query_head_stride,
    key_token_stride,
    key_head_stride,
    value_token_stride,
    value_head_stride,
    key_size,
    value_size,
    scaling,
    is_delta: tl.constexpr,
    by_row: tl.constexpr,
    normalize: tl.constexpr,
    has_skip: tl.constexpr,
    precision: tl.constexpr,
    chunk: tl.constexpr,
    block_k: tl.constexpr,
    block_v: tl.constexpr,
):
    entry = first_entry + tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    tokens, lanes = tl.arange(0, chunk), tl.arange(0, block_k)
    columns = tl.program_id(2) * block_v + tl.arange(0, block_v)
    is_column = columns < value_size
    cells = head * key_size * value_size + lanes[:, None] * value_size + columns[None, :]
    size = key_size * value_size * heads.to(tl.int64)
    query += head // group * query_head_stride
    key += head // group * key_head_stride
    value += head * value_head_stride
    first, last = tl.load(node_first + entry), tl.load(node_last + entry)
    source = tl.load(node_origin + entry).to(tl.int64)
    place, kept_place = tl.load(node_place + entry).to(tl.int64), tl.load(node_kept + entry).to(tl.int64)
    if first == last:  # its children go on from what it went on from
        for lane in range(0, key_size, block_k):
            inside = (lane + lanes < key_size)[:, None] & is_column[None, :]
            state = load_state(states, initial, source, cells + lane * value_size, inside, size)
            store_state(states, place, state, cells + lane * value_size, inside, size)
            store_state(kept, kept_place, state, cells + lane * value_size, inside, size)
    for start in range(first, last, chunk):
        row = (start + tokens).to(tl.int64)
        is_token = row < last
        in_values = is_token[:, None] & is_column[None, :]
        inputs = tl.load(value + row[:, None] * value_token_stride + columns[None, :], mask=in_values, other=0.0)
        inputs = inputs.to(tl.float32)
        steps = tl.load(step + row * heads + head, mask=is_token, other=0.0)
        if not by_row:
            if is_delta:
                logs = tl.load(decay + row * heads + head, mask=is_token, other=0.0)
            else:
                logs = steps * tl.load(rate + head)
        of_queries = tl.zeros((chunk, chunk), tl.float32)
        of_keys = tl.zeros((chunk, chunk), tl.float32)
        out = tl.zeros((chunk, block_v), tl.float32)
        found = tl.zeros((chunk, block_v), tl.float32)
        query_squares = tl.zeros((chunk,), tl.float32)
        key_squares = tl.zeros((chunk,), tl.float32)
        for lane in range(0, key_size, block_k):
            is_lane = lane + lanes < key_size
            in_keys, in_state = is_token[:, None] & is_lane[None, :], is_lane[:, None] & is_column[None, :]
            at = lane + lanes[None, :]
            queries = tl.load(query + row[:, None] * query_token_stride + at, mask=in_keys, other=0.0).to(tl.float32)
            keys = tl.load(key + row[:, None] * key_token_stride + at, mask=in_keys, other=0.0).to(tl.float32)
            state = load_state(states, initial, source, cells + lane * value_size, in_state, size)
            if normalize:
                query_squares += tl.sum(queries * queries, axis=1)
                key_squares += tl.sum(keys * keys, axis=1)
            if by_row:
                if is_delta:
                    logs = tl.load(decay + (row * heads + head)[:, None] * key_size + at, mask=in_keys, other=0.0)
                else:
                    logs = steps[:, None] * tl.load(rate + head * key_size + at, mask=is_lane[None, :], other=0.0)
                of_queries, of_keys = add_decayed_products(of_queries, of_keys, queries, keys, logs, is_delta, chunk)
                since = tl.exp(tl.cumsum(logs, axis=0))
                queries, keys = queries * since, keys * since
            else:
                of_queries += tl.dot(queries, tl.trans(keys), input_precision=precision)
                if is_delta:
                    of_keys += tl.dot(keys, tl.trans(keys), input_precision=precision)
            out += tl.dot(queries, state, input_precision=precision)
            if is_delta:
                found += tl.dot(keys, state, input_precision=precision)
        if not by_row:
            between = tl.exp(sums_between(logs, chunk))
            since = tl.exp(tl.cumsum(logs, axis=0))[:, None]
            of_queries, of_keys, out, found = of_queries * between, of_keys * between, out * since, found * since
        key_factors = tl.full((chunk,), 1.0, tl.float32)
        if normalize:
            query_factors = 1.0 / tl.sqrt(query_squares + 1e-6)
            key_factors = 1.0 / tl.sqrt(key_squares + 1e-6)
            of_queries *= query_factors[:, None] * key_factors[None, :]
            of_keys *= key_factors[:, None] * key_factors[None, :]
            out *= query_factors[:, None]
            found *= key_factors[:, None]
        updates = steps[:, None] * (inputs - found)
        out *= scaling
        for token in range(chunk):
            is_this = (tokens == token)[None, :]
            update = row_of(updates, token, chunk)[None, :]
            if is_delta:
                factors = steps * tl.sum(tl.where(is_this, of_keys, 0.0), axis=1)
                updates = tl.where((tokens > token)[:, None], updates - factors[:, None] * update, updates)
            factors = scaling * tl.sum(tl.where(is_this, of_queries, 0.0), axis=1)
            out = tl.where((tokens >= token)[:, None], out + factors[:, None] * update, out)
        if has_skip:
            out += tl.load(skip + head) * inputs
        to = (row * heads + head)[:, None] * value_size + columns[None, :]
        tl.store(result + to, out.to(result.dtype.element_ty), mask=in_values)
        is_last = start + chunk >= last
        if (place >= 0) | (is_last & (kept_place >= 0)):
            updates *= key_factors[:, None]
            if not by_row:
                updates *= row_of(between, chunk - 1, chunk)[:, None]
            for lane in range(0, key_size, block_k):
                is_lane = lane + lanes < key_size
                in_keys, in_state = is_token[:, None] & is_lane[None, :], is_lane[:, None] & is_column[None, :]
                at = lane + lanes[None, :]
                keys = tl.load(key + row[:, None] * key_token_stride + at, mask=in_keys, other=0.0).to(tl.float32)
                state = load_state(states, initial, source, cells + lane * value_size, in_state, size)
                if by_row:
                    if is_delta:
                        logs = tl.load(decay + (row * heads + head)[:, None] * key_size + at, mask=in_keys, other=0.0)
                    else:
                        logs = steps[:, None] * tl.load(rate + head * key_size + at, mask=is_lane[None, :], other=0.0)
                    keys *= tl.exp(sums_behind(logs, chunk))
                    state *= tl.exp(tl.sum(logs, axis=0))[:, None]
                else:
                    state *= tl.exp(tl.sum(logs, axis=0))
                state += tl.dot(tl.trans(keys), updates, input_precision=precision)
                store_state(states, place, state, cells + lane * value_size, in_state, size)
                if is_last:
                    store_state(kept, kept_place, state, cells + lane * value_size, in_state, size)
            tl.debug_barrier()  # what one thread has stored, another may load for the next chunk
        source = place


def tree_recurrence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor | None,
    step: Tensor,
    rate: Tensor | None,
    skip: Tensor | None,
    nodes: TreeNodes,
    scaling: float,
    normalize: bool,
    initial: Tensor | None,
    keep: Sequence[int],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The delta rule of `decay` and `step` (beta), or without `decay` the scan of `rate` and `step`."""
    query, key, value = (x if x.stride(2) == 1 else x.contiguous() for x in (query, key, value))
    decay, rate, skip, initial = (None if x is None else x.contiguous() for x in (decay, rate, skip, initial))
    by_row = decay.ndim == 3 if decay is not None else rate is not None and rate.ndim == 2
    tokens, heads, value_size = value.shape
    key_size = key.shape[2]
    levels = tree_levels(nodes, keep, CHUNK, value.device)
    result = value.new_empty(tokens, heads, value_size, dtype=dtype)
    kept = value.new_empty(len(keep), heads, key_size, value_size, dtype=torch.float32)
    states = value.new_empty(levels.num_places, heads, key_size, value_size, dtype=torch.float32)
    for first, stop in levels.launches if heads * value_size else ():
        tree_recurrence_kernel[(stop - first, heads, triton.cdiv(value_size, BLOCK_VALUES))](
            query,
            key,
            value,
            decay,
            step.contiguous(),
            rate,
            skip,
            states if initial is None else initial,
            states,
            kept,
            result,
            levels.first,
            levels.last,
            levels.origin,
            levels.place,
            levels.kept,
            first,
            heads,
            heads // key.shape[1],
            query.stride(0),
            query.stride(1),
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            key_size,
            value_size,
            scaling,
            is_delta=decay is not None,
            by_row=by_row,
            normalize=normalize,
            has_skip=skip is not None,
            precision="ieee",
            chunk=CHUNK,
            block_k=BLOCK_KEYS,
            block_v=BLOCK_VALUES,
            num_warps=NUM_WARPS,
            num_stages=1,
            **all_registers(),
        )
    return result, kept
