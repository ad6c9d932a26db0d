"""Short convolutions and recurrences along a prefix tree: a node goes on from what its parent ended with.

A mixer of transformers calls a few functions that it finds in its module: a causal convolution, and a scan that takes
an initial state. On a replica each finds one here that runs the model's own over a pack: for the convolution every node
is preceded by the last inputs of its path; the scan runs once a level of the tree over all of its nodes, each begun
with its parent's final state. Tokens that fill the shorter nodes of a level up neither decay a state nor add to it.

Where no pack is running, and wherever a call has arguments that are not expected, the model's own function is called
as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from instsel.engine.attention import PackState, UnsupportedAttentionError, current_pack
from instsel.engine.function_globals import named, renamed
from instsel.engine.replica import Replica
from instsel.kernels.devices import to_device

Scan = Callable[[dict[str, Tensor], "Tensor | None"], tuple[Tensor, Tensor]]
_SHORTEST = 16  # nodes of up to so many tokens are run together, as if they were equally long


@dataclass(slots=True)
class Level:
    """Nodes that a scan runs at once; all tensors int64.

    nodes   their places in the pack
    tokens  [n, L]: their tokens, and the number of the pack's tokens where a node has no more
    filled  [m]: which of the n * L places have a token
    own     [m]: those tokens
    """

    nodes: list[int]
    tokens: Tensor
    filled: Tensor
    own: Tensor


@dataclass(slots=True)
class Context:
    """What a convolution reads, over the inputs `[0 | of each cached node its last ones | pack]`; all int64.

    order  [N * width + T]: every node's tokens after the inputs that its path had before
    own    [T]: where the pack's tokens stand in it
    last   [N, width]: the last inputs of each node's path
    """

    order: Tensor
    own: Tensor
    last: Tensor


@dataclass(slots=True)
class PackTree:
    """The nodes of a pack one after another, each with what it continues.

    offsets  int64 [N + 1], where each node's tokens begin
    parents  int64 [N]: the parent's place in the pack, -1 for a root, -2 - c for cached node c of the path
    cached   how many nodes of the path are cached
    """

    offsets: np.ndarray
    parents: np.ndarray
    cached: int
    device: torch.device
    _contexts: dict[int, Context] = field(default_factory=dict)  # by width
    _levels: list[Level] | None = None

    def levels(self) -> list[Level]:
        """Nodes to be run at once, parents before their children."""
        if self._levels is None:
            self._levels = [self._level(nodes) for nodes in self._alike()]
        return self._levels

    def _alike(self) -> Iterable[list[int]]:
        """Nodes of one depth and of about one length, so that little is filled up."""
        depth = np.zeros(len(self.parents), np.int64)
        for node, parent in enumerate(self.parents.tolist()):  # parents come before their children
            depth[node] = depth[parent] + 1 if parent >= 0 else 0
        lengths = np.maximum(np.diff(self.offsets), _SHORTEST)
        kind = np.stack([depth, np.ceil(np.log2(lengths)).astype(np.int64)], axis=1)
        order = np.lexsort((kind[:, 1], kind[:, 0]))
        begins = np.flatnonzero(np.any(np.diff(kind[order], axis=0, prepend=-1), axis=1))
        return [part.tolist() for part in np.split(order, begins[1:])]

    def _level(self, nodes: list[int]) -> Level:
        lengths = np.diff(self.offsets)[nodes]
        place = np.arange(lengths.max(initial=0))
        there = place < lengths[:, None]
        tokens = np.where(there, self.offsets[nodes][:, None] + place, self.offsets[-1])
        return Level(nodes, *map(self._to_device, (tokens, np.flatnonzero(there), tokens[there])))

    def context(self, width: int) -> Context:
        """What a convolution that reaches back `width` tokens reads."""
        if width not in self._contexts:
            begin = 1 + self.cached * width
            last = np.zeros((len(self.parents), width), np.int64)
            order, own = [], []
            for node, parent in enumerate(self.parents.tolist()):
                before = last[parent] if parent >= 0 else np.zeros(width, np.int64)
                if parent < -1:
                    before = 1 + (-2 - parent) * width + np.arange(width)
                tokens = begin + np.arange(self.offsets[node], self.offsets[node + 1])
                order.append(np.concatenate([before, tokens]))
                own.append(np.arange(len(order[-1])) >= width)
                last[node] = order[-1][len(order[-1]) - width :]
            parts = np.concatenate(order), np.flatnonzero(np.concatenate(own)), last
            self._contexts[width] = Context(*map(self._to_device, parts))
        return self._contexts[width]

    def _to_device(self, values: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(values), self.device)


def put_recurrences(replica: Replica) -> int:
    """Has the mixers of a replica find the functions of this module; gives how many mixers there are."""
    found = 0
    forwards: dict[type, FunctionType | None] = {}
    for module in replica.modules:
        kind = type(module)
        if kind not in forwards:
            forwards[kind] = _forward_along_tree(kind)
        forward = forwards[kind]
        if forward is not None and "forward" not in vars(module):
            replica.put_forward(module, MethodType(forward, module))
            found += 1
    return found


def _forward_along_tree(kind: type[nn.Module]) -> FunctionType | None:
    """A class's forward with the functions of this module in place of those that it names; None where it names none."""
    forward: Any = cast(Any, kind).forward
    changed = False
    for name, function in _ALONG_TREE.items():
        own = named(forward, name)
        if own is not None:
            forward, changed = renamed(forward, name, partial(function, own)), True
    return forward if changed else None


def _convolution(own: Any, inputs: Tensor, weight: Tensor, *rest: Any, **more: Any) -> Any:
    """`causal_conv1d_fn`: inputs [1, C, T], weight [C, K]."""
    state = current_pack()
    if state is None:
        return own(inputs, weight, *rest, **more)
    tree = _tree(state, inputs, tokens=inputs.shape[-1])
    context = tree.context(weight.shape[-1] - 1)
    cached = [cast(Tensor, kept) for kept in state.cached_layer()]
    source = torch.cat([inputs.new_zeros(inputs.shape[1], 1), *cached, inputs[0]], dim=1)
    out = own(source[:, context.order][None], weight, *rest, **more)
    state.keep_recurrent(lambda node: source[:, context.last[node]])
    return out[:, :, context.own]


def _delta_rule(
    own: Any, query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule, one decay a head or one a channel: all [1, T, heads, ...]."""
    state = current_pack()
    if state is None or more.get("initial_state") is not None or more.get("output_final_state"):
        return own(query, key, value, g=g, beta=beta, **more)
    settings = {**more, "output_final_state": True}
    settings.pop("initial_state", None)

    def scan(part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], own(**part, **settings, initial_state=initial))

    return _along_tree(state, {"query": query, "key": key, "value": value, "g": g, "beta": beta}, scan), None


def _mamba2_scan(
    own: Any,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803  (the name by which it is given)
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    *,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    **more: Any,
) -> Any:
    """Mamba-2's scan: hidden states [1, T, heads, head size], steps [1, T, heads]."""
    state = current_pack()
    if state is None or more.get("initial_states") is not None or more.get("return_final_states"):
        own_steps = {"dt_bias": dt_bias, "dt_softplus": dt_softplus, "dt_limit": dt_limit}
        return own(hidden_states, dt, A, B, C, **own_steps, **more)
    settings = {**more, "return_final_states": True}
    settings.pop("initial_states", None)
    # Steps are made here, so that those which fill a node up are none.
    steps = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    steps = (softplus(steps) if dt_softplus else steps).clamp(*dt_limit)

    def scan(part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], own(**part, A=A, initial_states=initial, **settings))

    return _along_tree(state, {"hidden_states": hidden_states, "dt": steps, "B": B, "C": C}, scan)


def _mamba_scan(
    own: Any,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor | None = None,  # noqa: N803
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **more: Any,
) -> Any:
    """Mamba-1's scan, token by token as the model's own takes no initial state: [1, channels, T]."""
    state = current_pack()
    if state is None or return_last_state:
        rest = (D, z, delta_bias, delta_softplus, return_last_state)
        return own(hidden_states, dt, A, B, C, *rest, **more)
    steps = dt if delta_bias is None else dt + delta_bias.to(dt.dtype)[..., None]
    steps = softplus(steps) if delta_softplus else steps

    def scan(part: dict[str, Tensor], initial: Tensor | None) -> tuple[Tensor, Tensor]:
        x, step = part["x"], part["dt"]
        held = x.new_zeros(x.shape[0], x.shape[2], A.shape[-1]) if initial is None else initial
        outs = []
        for at in range(x.shape[1]):
            decay = torch.exp(A * step[:, at, :, None])
            held = decay * held + step[:, at, :, None] * part["B"][:, at, None].float() * x[:, at, :, None].float()
            outs.append((held.to(x.dtype) @ part["C"][:, at, :, None])[..., 0])
        return torch.stack(outs, dim=1), held

    parts = {"x": hidden_states, "dt": steps, "B": B, "C": C}
    out = _along_tree(state, {name: x.transpose(1, 2) for name, x in parts.items()}, scan).transpose(1, 2)
    if D is not None:
        out = out + hidden_states * D[None, :, None]
    return out if z is None else out * silu(z)


_ALONG_TREE: dict[str, Callable[..., Any]] = {
    "causal_conv1d_fn": _convolution,
    "torch_chunk_gated_delta_rule": _delta_rule,
    "chunk_kimi_delta_attention": _delta_rule,
    "mamba2_chunk_scan": _mamba2_scan,
    "mamba_selective_scan": _mamba_scan,
}


def _tree(state: PackState, inputs: Tensor, *, tokens: int) -> PackTree:
    if inputs.shape[0] != 1 or state.tree is None or tokens != int(state.tree.offsets[-1]):
        raise UnsupportedAttentionError("a recurrent layer was given other tokens than the pack's")
    return cast(PackTree, state.tree)


def _along_tree(state: PackState, inputs: dict[str, Tensor], scan: Scan) -> Tensor:
    """Output [1, T, ...] of a scan over inputs [1, T, ...], level by level; keeps the states that are to be kept."""
    some = next(iter(inputs.values()))
    tree = _tree(state, some, tokens=some.shape[1])
    cached = [cast(Tensor, kept) for kept in state.cached_layer()]
    filled = {name: pad(x[0], [0, 0] * (x.ndim - 2) + [0, 1]) for name, x in inputs.items()}
    final: list[Tensor] = [torch.empty(0)] * len(tree.parents)
    out: Tensor | None = None
    for level in tree.levels():
        begun = [_begun_with(int(tree.parents[node]), final, cached) for node in level.nodes]
        known = next((one for one in begun if one is not None), None)
        initial = None
        if known is not None:
            initial = torch.stack([torch.zeros_like(known) if one is None else one for one in begun])
        values, last = scan({name: x[level.tokens] for name, x in filled.items()}, initial)
        if out is None:
            out = values.new_empty(int(tree.offsets[-1]), *values.shape[2:])
        out[level.own] = values.flatten(0, 1)[level.filled]
        for node, one in zip(level.nodes, last, strict=True):
            final[node] = one
    state.keep_recurrent(final.__getitem__)
    assert out is not None
    return out[None]


def _begun_with(parent: int, final: list[Tensor], cached: list[Tensor]) -> Tensor | None:
    if parent >= 0:
        return final[parent]
    return None if parent == -1 else cached[-2 - parent]
