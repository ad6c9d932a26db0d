"""The attention function that a transformers model calls while it runs a pack."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from instsel.kernels import TreeSegments, tree_attention
from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.decoder_layer import DecoderLayer
from instsel.kernels.layer_memory import LayerMemory, LayerShape, Storage

NAME = "instsel_tree_attention"

# Arguments by which an architecture changes attention in ways that a packed tree does not express: biases that depend
# on the distance, sinks of each token (`s_aux` has one a head), paged caches. A model that passes one is scored one
# path at a time.
_UNSUPPORTED = ("position_bias", "alibi", "sinks", "cache", "block_mask")


# What the calls of a forward keep of a node, in their order: a layer's (key, value) [tokens, kv_heads, d], or the last
# inputs of a convolution, or the state of a recurrence (None where no later pack goes on from the node).
NodeCache = list[Any]
RotaryTables = tuple[Tensor, Tensor]  # cosines and sines


class UnsupportedAttentionError(ValueError):
    """The model asks for something that attention over a packed tree cannot give."""


class PackStoppedError(RuntimeError):
    """The pack was given up while it ran."""


@dataclass(slots=True)
class Workspace:
    """Where one pack after another is run."""

    storage: Storage = field(default_factory=Storage)
    stop: threading.Event = field(default_factory=threading.Event)  # when set, the pack ends with its next layer


@dataclass(slots=True)
class PackState:
    """What the layers of one packed forward share."""

    segments: TreeSegments
    backend: str = "auto"
    find_again: bool = True  # whether a layer on a GPU finds attention's results again that are not finite
    positions: Tensor | None = None  # of the pack's tokens [1, T], for tables that go by places otherwise
    cached: list[NodeCache] = field(default_factory=list)  # of each cached node
    kept: tuple[tuple[int, int, int], ...] = ()  # (node, first, last): nodes and tokens of which is to be kept
    keys_values: dict[int, NodeCache] = field(default_factory=dict)  # of each kept node
    tree: Any = None  # the pack's nodes, for recurrences (pack_tree.PackTree)
    places: dict[int, int] = field(default_factory=dict)  # in the pack, of kept nodes that later packs go on from
    layers: int = 0  # calls of attention, convolutions and recurrences so far, which is the index of what they keep
    recurrences: int = 0  # those of them that are no attention
    calls: list[AttentionOptions] = field(default_factory=list)  # what the model's own layers asked for
    workspace: Workspace = field(default_factory=Workspace)
    memories: dict[LayerShape, LayerMemory] = field(default_factory=dict)  # in the workspace's storage
    arguments: Mapping[str, object] = field(default_factory=dict)  # of the whole layer that is running
    left: tuple[Tensor, Tensor] | None = None  # hidden states of a layer on a GPU, and what is still to be added
    # Of rotary embeddings on a GPU, with what they are made of.
    tables: dict[object, tuple[RotaryTables, RotaryTables]] = field(default_factory=dict)

    def leave(self, hidden: Tensor, added: Tensor | None) -> None:
        """Leaves rows [T, H] that are to be added to hidden states to what is given these next."""
        if self.left is not None:
            raise RuntimeError("a layer's sum was left to something that never asked for it")
        self.left = None if added is None else (hidden, added)

    def left_to(self, hidden: Tensor) -> Tensor | None:
        """What was left to be added to these hidden states, once."""
        if self.left is None or self.left[0] is not hidden:
            return None
        (_, added), self.left = self.left, None
        return added

    def keep(self, keys: Tensor, values: Tensor) -> None:
        """Copies a layer's keys and values [T, kv_heads, d] of the nodes that are to be kept."""
        for node, first, last in self.kept:
            # Copies: views would keep the whole pack's keys and values alive.
            self.keys_values.setdefault(node, []).append((keys[first:last].clone(), values[first:last].clone()))

    def keep_recurrent(self, state_of: Callable[[int], Tensor]) -> None:
        """Copies what a convolution or recurrence ends the nodes with that later packs go on from, by their places."""
        for node, _, _ in self.kept:
            ended = state_of(self.places[node]).clone() if node in self.places else None
            self.keys_values.setdefault(node, []).append(ended)
        self.layers += 1
        self.recurrences += 1

    def cached_layer(self) -> list[Any]:
        """What the call that is running kept of the cached nodes: keys and values, or a recurrence's state."""
        return [node[self.layers] for node in self.cached]

    def next_cached(self) -> list[Any]:
        """The same for a layer's attention, which the next call then comes after."""
        found = self.cached_layer()
        self.layers += 1
        return found

    def memory_of(self, layer: DecoderLayer, dtype: torch.dtype) -> LayerMemory:
        """The memory that all layers of a shape use one after another."""
        memory = self.memories.get(layer.shape)
        if memory is None:
            # Attention keeps pairs, recurrences a tensor.
            pairs = [next((kept for kept in node if isinstance(kept, tuple)), ((), ())) for node in self.cached]
            cached = sum(len(keys) for keys, _ in pairs)
            memory = LayerMemory(layer.shape, self.segments, cached, dtype, self.workspace.storage)
            self.memories[layer.shape] = memory
        return memory


class AbsentMask:
    """Stands for the mask that there is none of, for layers that cut theirs before anything looks at it."""

    def __getitem__(self, part: object) -> AbsentMask:
        return self


_current = threading.local()


@contextmanager
def tree_attention_of(model: PreTrainedModel) -> Iterator[None]:
    """Within this block the model's layers attend along a tree; its own implementation is put back after."""
    # A model made of several has a configuration for each, which transformers would give one implementation.
    before = [(config, config._attn_implementation) for config in _configurations(model)]
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation_internal = implementation


def _configurations(model: PreTrainedModel) -> list[Any]:
    found: dict[int, Any] = {}
    pending: list[Any] = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    while pending:
        config = pending.pop()
        if config is not None and id(config) not in found:
            found[id(config)] = config
            pending += [getattr(config, name, None) for name in config.sub_configs]
    return list(found.values())


@contextmanager
def running(state: PackState) -> Iterator[None]:
    """Within this block the layers' calls belong to the pack that `state` describes."""
    _current.state = state
    try:
        yield
    finally:
        _current.state = None


def current_pack() -> PackState | None:
    """The pack that is running in this thread."""
    return getattr(_current, "state", None)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | AbsentMask | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers expects: [1, heads, T, d] in, [1, T, heads, d] out."""
    state = current_pack()
    if state is None:
        raise UnsupportedAttentionError(f"{NAME} was called outside a packed forward")
    unsupported = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if attention_mask is not None and not isinstance(attention_mask, AbsentMask):
        unsupported.append("attention_mask")
    if kwargs.get("is_causal", getattr(module, "is_causal", True)) is False:
        unsupported.append("is_causal=False")
    if s_aux is not None and s_aux.shape != query.shape[1:2]:
        unsupported.append(f"s_aux of shape {tuple(s_aux.shape)}")
    if unsupported or query.shape[0] != 1 or key.shape[2] != query.shape[2]:
        raise UnsupportedAttentionError(f"{type(module).__name__} passes {', '.join(unsupported) or 'other shapes'}")
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    head_size, value_size = keys.shape[2], values.shape[2]
    if value_size < head_size:  # latent attention: values shorter than keys
        values = torch.nn.functional.pad(values, (0, head_size - value_size))
    state.keep(keys, values)
    if state.cached:
        layer = state.cached_layer()
        keys = torch.cat([*(k for k, _ in layer), keys])
        values = torch.cat([*(v for _, v in layer), values])
    state.layers += 1
    state.calls.append(AttentionOptions(scaling or head_size**-0.5, sliding_window, softcap, s_aux))
    out = tree_attention(
        queries,
        keys,
        values,
        state.segments,
        scaling=scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
        backend=state.backend,
    )
    return out[None, :, :, :value_size], None


AttentionInterface.register(NAME, _forward)
