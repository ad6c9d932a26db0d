"""A model's own convolutions and scans over a pack, a level of its tree at a time.

A convolution runs once, every node preceded by the last inputs of its path. A scan runs once a level of the tree over
all of its nodes, each begun with its parent's final state; tokens that fill the shorter nodes of a level up neither
decay a state nor add to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from instsel.layers.attention import PackState
from instsel.planning.pack_tree import PackTree

Scan = Callable[[dict[str, Tensor], "Tensor | None"], tuple[Tensor, Tensor]]


def convolve_levels(own: Callable[..., object], state: PackState, tree: PackTree, inputs: Tensor, width: int) -> Tensor:
    """Output [1, C, T] of a convolution of `width` taps, given as a function of inputs [1, C, L]."""
    context = tree.context(width - 1)
    source = torch.cat([inputs.new_zeros(inputs.shape[1], 1), *initial_states(state, tree), inputs[0]], dim=1)
    out = cast(Tensor, own(source[:, context.order][None]))
    state.keep_recurrent(lambda node: source[:, context.last[node]])
    return out[:, :, context.own]


def scan_levels(scan: Scan, state: PackState, tree: PackTree, inputs: dict[str, Tensor]) -> Tensor:
    """Output [1, T, ...] of a scan over inputs [1, T, ...], level by level; keeps the states that are to be kept."""
    initial = initial_states(state, tree)
    filled = {name: pad(x[0], [0, 0] * (x.ndim - 2) + [0, 1]) for name, x in inputs.items()}
    final: list[Tensor] = [torch.empty(0, dtype=torch.float32)] * len(tree.nodes)
    out: Tensor | None = None
    for level in tree.levels():
        begun = [_begun_with(int(tree.nodes.parents[node]), final, initial) for node in level.nodes]
        known = next((one for one in begun if one is not None), None)
        states = None
        if known is not None:
            states = torch.stack([torch.zeros_like(known) if one is None else one for one in begun])
        values, last = scan({name: x[level.tokens] for name, x in filled.items()}, states)
        if out is None:
            out = values.new_empty(tree.nodes.num_tokens, *values.shape[2:])
        out[level.own] = values.flatten(0, 1)[level.filled]
        for node, one in zip(level.nodes, last, strict=True):
            final[node] = one
    state.keep_recurrent(final.__getitem__)
    assert out is not None
    return out[None]


def initial_states(state: PackState, tree: PackTree) -> list[Tensor]:
    """What the call that is running kept of the cached nodes that the pack's nodes go on from."""
    layer = state.cached_layer()
    return [cast(Tensor, layer[cached]) for cached in tree.initial]


def _begun_with(parent: int, final: list[Tensor], initial: list[Tensor]) -> Tensor | None:
    if parent >= 0:
        return final[parent]
    return None if parent == -1 else initial[-2 - parent]
