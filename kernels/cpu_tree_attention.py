"""`tree_attention` on the CPU: a pack in one C++ call, in bfloat16 where the processor has its products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import tree_attention_reference
from .attention_kinds import AttentionOptions
from .native_arrays import Machine, array_of, contiguous_array, has_bfloat16_products
from .tree_attention_reference import visible
from .tree_plan import TreePlan, make_plan
from .tree_segments import TreeSegments

LARGEST_HEAD = 256


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    if query.shape[0] == 0:
        return torch.empty_like(query, memory_format=torch.contiguous_format)
    if query.shape[2] <= LARGEST_HEAD:
        return _in_one_call(query, key, value, segments, options)
    if options.softcap is not None or options.sinks is not None:
        return tree_attention_reference.tree_attention(query, key, value, segments, options)
    finite = (key.isfinite() & value.isfinite()).flatten(1).all(dim=1)
    if bool(finite.all()):
        return _by_nodes(query, key, value, segments, options)
    # torch's attention lets what is not finite into rows that do not see it; those who see it are the reference's.
    zeroed = [x.masked_fill(~finite[:, None, None], 0.0) for x in (key, value)]
    out = _by_nodes(query, zeroed[0], zeroed[1], segments, options)
    exact = tree_attention_reference.tree_attention(query, key, value, segments, options)
    return torch.where(_sees_any(~finite, segments, query.shape[0], options.window)[:, None, None], exact, out)


def _sees_any(keys: Tensor, segments: TreeSegments, num_queries: int, window: int | None) -> Tensor:
    """bool [T]: which tokens see any of the marked keys."""
    found = torch.zeros(num_queries, dtype=torch.bool)
    for node in range(segments.num_nodes):
        first, last = int(segments.query_offsets[node]), int(segments.query_offsets[node + 1])
        marked = keys[segments.key_indices(node, keys.shape[0] - num_queries)]
        found[first:last] = (visible(last - first, marked.shape[0], window, keys.device) & marked).any(dim=1)
    return found


def _plan(segments: TreeSegments, num_cached: int) -> TreePlan:
    plan: TreePlan | None = segments.plans.get(("ranges", num_cached))
    if plan is None:
        plan = segments.plans[("ranges", num_cached)] = make_plan(segments, num_cached)
    return plan


def _workspace(segments: TreeSegments, num_bytes: int) -> np.ndarray:
    """Memory for packed keys and values, aligned to 64 bytes and kept for the other layers of the model."""
    kept = segments.plans.get("workspace")
    if kept is None or kept.shape[0] < num_bytes:
        raw = np.empty(num_bytes + 64, dtype=np.uint8)
        skip = -raw.ctypes.data % 64
        kept = raw[skip : skip + num_bytes]
        segments.plans["workspace"] = kept
    return kept


def _in_one_call(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    dtype = query.dtype if query.dtype == torch.bfloat16 and has_bfloat16_products() else torch.float32
    out = torch.empty(query.shape, dtype=dtype)
    q, k, v = (array_of(x.to(dtype)) for x in (query, key, value))
    attend(q, k, v, array_of(out), segments, options, Machine.now())
    return out.to(query.dtype)


def attend(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    out: np.ndarray,
    segments: TreeSegments,
    options: AttentionOptions,
    machine: Machine,
) -> None:
    """The whole pack in C++, written to `out`: bfloat16 (as uint16) over packed keys and values, or float32."""
    from . import _native

    plan = _plan(segments, key.shape[0] - query.shape[0])
    scaling, window, softcap, sinks = options
    arguments: list[Any] = [query, key, value, out, *plan.arrays, scaling, softcap or 0.0, window or 0]
    arguments.append(contiguous_array(sinks))
    if query.dtype == np.uint16:
        needed = _native.bfloat16_tree_attention_workspace(plan.num_blocks, key.shape[1], query.shape[2])
        arguments += machine.threads, _workspace(segments, needed), machine.instruction_set
        _native.bfloat16_tree_attention(*arguments)
    else:
        arguments += machine
        _native.float_tree_attention(*arguments)


def _by_nodes(query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions) -> Tensor:
    """One call of torch's attention a node, over its gathered path."""
    window = options.window
    out = torch.empty(query.shape, dtype=query.dtype)
    num_cached = key.shape[0] - query.shape[0]
    for node in range(segments.num_nodes):
        first, last = int(segments.query_offsets[node]), int(segments.query_offsets[node + 1])
        if first == last:
            continue
        path = segments.key_indices(node, num_cached)
        queries, keys, values = (x.transpose(0, 1)[None] for x in (query[first:last], key[path], value[path]))
        whole = path.shape[0] == last - first and window is None
        attended = torch.nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=None if whole else visible(last - first, path.shape[0], window, query.device),
            is_causal=whole,
            scale=options.scaling,
            enable_gqa=True,
        )
        out[first:last] = attended[0].transpose(0, 1)
    return out
