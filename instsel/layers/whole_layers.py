"""Decoder layers in one run of kernels, where nothing that somebody has added would be passed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from instsel.kernels.decoder_layer import Call, DecoderLayer, Step, Sum
from instsel.kernels.gpu_layer import GpuLayer
from instsel.kernels.layer_attention import Attention
from instsel.layers.attention import PackState, PackStoppedError, current_pack, running
from instsel.layers.attention_parts import AttentionParts
from instsel.layers.attention_search import find_attention
from instsel.layers.feed_forward_parts import FeedForwardParts, find_feed_forward
from instsel.layers.fused_modules import nearly_equal
from instsel.layers.fused_norms import KnownNorm
from instsel.layers.layer_flow import HIDDEN_ROWS, ChildCall, find_flow
from instsel.layers.layer_records import LayerRecord
from instsel.layers.layer_schedule import PartRun, schedule

# Of what a decoder gives its layers, all that has no effect but by what the checks look at.
_WITHOUT_EFFECT = {"position_embeddings", "position_ids", "cache_position", "use_cache"}
_PLAIN = (bool, int, float, str)
OTHER_ROWS = "the kernels give other rows than its own code"


class _Argument(NamedTuple):
    """Stands for an argument of the layer."""

    name: str


class OwnCall(NamedTuple):
    """A child that is called as it is, on rows of `dimensions` [1, T, H] or [T, H]."""

    dimensions: int
    given: tuple[object, ...]
    named: dict[str, object]

    @property
    def arguments(self) -> set[str]:
        """Those of the layer that it is given."""
        return {value.name for value in (*self.given, *self.named.values()) if isinstance(value, _Argument)}

    def of(self, child: nn.Module) -> Call:
        """With the weights of a child."""
        return Call(partial(self._run, child))

    def _run(self, child: nn.Module, x: Tensor) -> Tensor:
        state = current_pack()
        assert state is not None
        rows, arguments = x[None] if self.dimensions == 3 else x, state.arguments

        def value_of(value: object) -> object:
            return rows if value is HIDDEN_ROWS else arguments.get(value.name) if type(value) is _Argument else value

        out = child(*map(value_of, self.given), **{name: value_of(value) for name, value in self.named.items()})
        made = out[0] if isinstance(out, tuple) else out
        if made.numel() != x.numel():
            raise OtherLayerError("one of its parts gives other rows than hidden states")
        return cast(Tensor, made).reshape(x.shape)


Part = KnownNorm | AttentionParts | FeedForwardParts | OwnCall


class LayerParts(NamedTuple):
    """A layer as a list of steps, by the names of its children."""

    names: list[str]  # of the arguments of its forward
    plain: dict[str, object]  # arguments that are always the same
    parts: list[tuple[str, Part]]  # in the order in which they run
    steps: list[PartRun | Sum]
    columns: int
    dtype: torch.dtype
    length: int | None  # of the tuple that it gives
    leaves: bool = False  # its last sum to what reads its rows next, on a GPU

    @property
    def passed(self) -> set[str]:
        """Arguments that are given to what is called as it is."""
        return {name for _, part in self.parts if isinstance(part, OwnCall) for name in part.arguments}


class OtherLayerError(ValueError):
    """Why a layer runs its own code."""


def find_whole_layer(
    layer: nn.Module,
    record: LayerRecord,
    norms: Mapping[nn.Module, KnownNorm],
    backend: str,
    gives_the_same: Callable[[nn.Module, LayerParts, LayerRecord], bool],
) -> LayerParts:
    """The steps of a layer; OtherLayerError where they are not found, or give other rows than the layer itself gave."""
    flow = find_flow(layer, record)
    if flow is None:
        raise OtherLayerError("it does more with what its parts give than to sum it up")
    try:
        found = [_part_of(layer.get_submodule(call.name), call, record, norms, backend) for call in flow.calls]
        parts = list(zip((call.name for call in flow.calls), found, strict=True))
        if all(isinstance(part, OwnCall) for part in found):
            raise OtherLayerError("none of its parts is one that the kernels compute")
        can_add = [backend == "cpu" and not isinstance(part, OwnCall) for part in found]
        steps = schedule(flow, can_add)
        plain: dict[str, object] = {name: value for name, value in record.others.items() if isinstance(value, _PLAIN)}
        rows = record.rows
        layer_parts = LayerParts(record.names, plain, parts, steps, rows.shape[1], rows.dtype, record.length)
        if not gives_the_same(layer, layer_parts, record):
            raise OtherLayerError(OTHER_ROWS)
        return layer_parts
    except OtherLayerError:
        raise
    except Exception as error:  # whatever a part of another kind raises
        raise OtherLayerError((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def _part_of(
    child: nn.Module, call: ChildCall, record: LayerRecord, norms: Mapping[nn.Module, KnownNorm], backend: str
) -> Part:
    if child in norms and len(call.given) + len(call.named) == 1 and child.weight.dtype == record.rows.dtype:
        return norms[child]
    attention = find_attention(child, call, record.calls[0], norms, backend) if len(record.calls) == 1 else None
    return attention or find_feed_forward(child, call, backend) or _own_call(call, record)


def _own_call(call: ChildCall, record: LayerRecord) -> OwnCall:
    """OtherLayerError where it is given something that is neither an argument of the layer nor a plain value."""

    def reference(value: object) -> object:
        if value is HIDDEN_ROWS or value is None or isinstance(value, _PLAIN):
            return value
        name = next((name for name, own in record.others.items() if own is value), None)
        if name is None:
            raise OtherLayerError(f"its {call.name} is given what it makes itself")
        return _Argument(name)

    named = {name: reference(value) for name, value in call.named.items()}
    return OwnCall(call.dimensions, tuple(reference(value) for value in call.given), named)


def make_whole_layer(layer: nn.Module, found: LayerParts) -> DecoderLayer | None:
    """The layer's weights made ready; None where a shape is not for the kernels."""
    parts = [part.of(layer.get_submodule(name)) for name, part in found.parts]
    if any(isinstance(part, Attention) and not part.can_run() for part in parts):
        return None
    steps = (
        step if isinstance(step, Sum) else Step(parts[step.call], step.source, step.target, step.add)
        for step in found.steps
    )
    return DecoderLayer(tuple(steps), found.columns, found.dtype)


def gives_the_same(layer: nn.Module, found: LayerParts, record: LayerRecord) -> bool:
    """Held against what the layer gave for the same rows."""
    whole = make_whole_layer(layer, found)
    if whole is None:
        return False
    state, own = record.state, record.result
    again = PackState(state.segments, tree=state.tree, places=state.places, arguments=record.arguments)
    x = record.rows.clone()
    with running(again):
        whole.forward(x, tables_of(record.arguments), again.memory_of(whole, x.dtype))
    return own is not None and nearly_equal(own, x)


def tables_of(arguments: Mapping[str, object]) -> tuple[Tensor, Tensor] | None:
    """The rotary embedding's tables [T, r]."""
    tables = arguments.get("position_embeddings")
    if not isinstance(tables, tuple) or len(tables) != 2:
        return None
    return tables[0][0], tables[1][0]


def whole_forward(
    whole: DecoderLayer, found: LayerParts, otherwise: Callable[..., object], *given: Any, **named: Any
) -> object:
    """A layer's forward: within a pack by `whole`, else, or where more is asked of it, as before."""
    state = current_pack()
    arguments = dict(zip(found.names, given, strict=False)) | named
    hidden_states = arguments.pop(found.names[0], None)
    if state is None or state.backend not in ("auto", "cpu") or not is_usual(whole, found, hidden_states, arguments):
        return otherwise(*given, **named)
    if state.workspace.stop.is_set():
        raise PackStoppedError("the pack was given up")
    state.arguments = arguments
    x = hidden_states[0]
    keep = state.keep if state.kept else None
    # The next hidden states are written over the last, which nothing else reads: the layer before made them for this.
    whole.forward(x, tables_of(arguments), state.memory_of(whole, x.dtype), state.next_cached, keep)
    return hidden_states if found.length is None else (hidden_states, *[None] * (found.length - 1))


def is_usual(whole: DecoderLayer | GpuLayer, found: LayerParts, x: object, arguments: Mapping[str, object]) -> bool:
    """Whether a layer is given hidden states and nothing that it would not heed."""
    known = _WITHOUT_EFFECT | found.passed
    for name, value in arguments.items():
        if value is not None and name not in known and (name not in found.plain or found.plain[name] != value):
            return False
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[0] != 1:
        return False
    if not x.is_contiguous() or x.requires_grad or x.dtype != whole.dtype:
        return False
    attention = whole.attention
    if attention is None or attention.rotary is None:
        return True
    tables = arguments.get("position_embeddings")
    return isinstance(tables, tuple) and all(table.shape[:2] == x.shape[:2] for table in tables)
