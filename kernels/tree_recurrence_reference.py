"""The specification of convolutions and recurrences along a tree in plain PyTorch: node by node, token by token.

In float32, or in float64 where that is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from .tree_nodes import TreeNodes


def tree_convolution(
    x: Tensor,
    weight: Tensor,
    nodes: TreeNodes,
    *,
    bias: Tensor | None,
    activation: str | None,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    width = weight.shape[1]
    out = torch.empty_like(x)
    begun = x.new_zeros(width - 1, x.shape[1])
    ends: list[Tensor] = []  # of each node, the last inputs of its path
    for node, first, last in _runs(nodes):
        path = torch.cat([_origin(nodes, node, begun, ends, initial), x[first:last]])
        for t in range(last - first):
            sums = (_exact(path[t : t + width]) * _exact(weight).T).sum(dim=0)
            sums = sums if bias is None else sums + _exact(bias)
            out[first + t] = (silu(sums) if activation == "silu" else sums).to(x.dtype)
        ends.append(path[last - first :])
    return out, _kept(ends, keep, begun)


def tree_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    beta: Tensor,
    nodes: TreeNodes,
    *,
    scaling: float,
    normalize: bool,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    group = value.shape[1] // key.shape[1]
    queries, keys = (_exact(x).repeat_interleave(group, dim=1) for x in (query, key))
    if normalize:
        queries, keys = (x / (x.square().sum(dim=2, keepdim=True) + 1e-6).sqrt() for x in (queries, keys))
    values, rates = _exact(value), _exact(beta)
    factors = _exact(decay if decay.ndim == 3 else decay[:, :, None]).exp()[..., None]  # of each row, or of all

    def step(state: Tensor, t: int) -> tuple[Tensor, Tensor]:
        state = state * factors[t]
        seen = torch.einsum("hk,hkv->hv", keys[t], state)
        state = state + torch.einsum("hk,hv->hkv", keys[t], rates[t][:, None] * (values[t] - seen))
        return state, scaling * torch.einsum("hk,hkv->hv", queries[t], state)

    begun = values.new_zeros(values.shape[1], keys.shape[2], values.shape[2])
    out, states = _recurrence(step, nodes, begun, values.shape[1:], initial, keep)
    return out.to(value.dtype), states


def tree_scan(
    x: Tensor,
    step_size: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    nodes: TreeNodes,
    *,
    skip: Tensor | None,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    heads = x.shape[1]
    inputs, sizes = _exact(x), _exact(step_size)
    writes, reads = (_exact(y).repeat_interleave(heads // y.shape[1], dim=1) for y in (write, read))
    rates = _exact(rate if rate.ndim == 2 else rate[:, None])  # of each row of the state, or of all

    def step(state: Tensor, t: int) -> tuple[Tensor, Tensor]:
        state = state * torch.exp(sizes[t][:, None] * rates)[:, :, None]
        state = state + torch.einsum("hn,hp->hnp", writes[t], sizes[t][:, None] * inputs[t])
        return state, torch.einsum("hn,hnp->hp", reads[t], state)

    begun = inputs.new_zeros(heads, writes.shape[2], inputs.shape[2])
    out, states = _recurrence(step, nodes, begun, inputs.shape[1:], initial, keep)
    return out if skip is None else out + _exact(skip)[:, None] * inputs, states


def _recurrence(
    step: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    nodes: TreeNodes,
    begun: Tensor,
    shape: Sequence[int],
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    out = begun.new_empty(nodes.num_tokens, *shape)
    ends: list[Tensor] = []
    for node, first, last in _runs(nodes):
        state = _origin(nodes, node, begun, ends, initial)
        for t in range(first, last):
            state, out[t] = step(state, t)
        ends.append(state)
    return out, _kept(ends, keep, begun)


def _runs(nodes: TreeNodes) -> list[tuple[int, int, int]]:
    offsets = nodes.offsets.tolist()
    return [(node, *bounds) for node, bounds in enumerate(pairwise(offsets))]


def _origin(nodes: TreeNodes, node: int, begun: Tensor, ends: list[Tensor], initial: Tensor | None) -> Tensor:
    """What a node goes on from."""
    parent = int(nodes.parents[node])
    if parent >= 0:
        return ends[parent]
    return begun if parent == -1 or initial is None else initial[-2 - parent].to(begun)


def _kept(ends: list[Tensor], keep: Sequence[int], like: Tensor) -> Tensor:
    return torch.stack([ends[node] for node in keep]) if keep else like.new_empty(0, *like.shape)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
