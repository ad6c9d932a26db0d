"""Decoder layers on a GPU with one kernel between two products: put together, held against their own rows, and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from instsel.kernels.decoder_layer import Sum
from instsel.kernels.gpu_layer import GpuAttention, GpuLayer, GpuPass, GpuStep
from instsel.layers.attention import PackState, PackStoppedError, current_pack, running
from instsel.layers.fused_modules import nearly_equal
from instsel.layers.layer_records import LayerRecord
from instsel.layers.whole_layers import LayerParts, OwnCall, is_usual, tables_of


def make_gpu_layer(layer: nn.Module, found: LayerParts) -> GpuLayer:
    """With the weights of a layer."""
    parts = [
        part.of(layer.get_submodule(name)) if isinstance(part, OwnCall) else part.on_gpu(layer.get_submodule(name))
        for name, part in found.parts
    ]
    steps = [
        step if isinstance(step, Sum) else GpuStep(parts[step.call], step.source, step.target) for step in found.steps
    ]
    return GpuLayer.of(steps, found.dtype)


def gives_the_same_on_gpu(layer: nn.Module, found: LayerParts, record: LayerRecord) -> bool:
    """Held against what the layer gave for the same rows."""
    whole, own = make_gpu_layer(layer, found), record.state
    again = PackState(own.segments, backend=own.backend, tree=own.tree, places=own.places, arguments=record.arguments)
    x = record.rows.clone()
    with running(again):
        left = whole.forward(x, None, _pass(whole, again, record.arguments))
    x = x if left is None else x.add_(left)
    return record.result is not None and nearly_equal(record.result, x)


def leave_sums(found: Mapping[int, LayerParts], records: Mapping[int, LayerRecord], given: Sequence[Tensor]) -> Any:
    """The same layers, those of them leaving their last sum whose rows were `given` to a norm, or to another of them,
    as they are and by nobody else seen."""
    readers = [*given, *(records[place].given for place in found)]
    return {
        place: parts._replace(leaves=sum(one is records[place].gave for one in readers) == 1)
        for place, parts in found.items()
    }


def gpu_forward(whole: GpuLayer, found: LayerParts, otherwise: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """A layer's forward: within a pack by `whole`, else, or where more is asked of it, as before."""
    state = current_pack()
    if state is None:
        return otherwise(*given, **named)
    arguments = dict(zip(found.names, given, strict=False)) | named
    hidden_states = arguments.pop(found.names[0], None)
    added = state.left_to(hidden_states)
    if not is_usual(whole, found, hidden_states, arguments):
        if added is not None:
            hidden_states[0].add_(added)
        return otherwise(*given, **named)
    if state.workspace.stop.is_set():
        raise PackStoppedError("the pack was given up")
    state.arguments = arguments
    x = hidden_states[0]
    # The next hidden states are written over the last, which nothing else reads: the layer before made them for this.
    left = whole.forward(x, added, _pass(whole, state, arguments))
    if left is not None and found.leaves:
        state.leave(hidden_states, left)
    elif left is not None:
        x.add_(left)
    return hidden_states if found.length is None else (hidden_states, *[None] * (found.length - 1))


def _pass(whole: GpuLayer, state: PackState, arguments: Mapping[str, Any]) -> GpuPass:
    tables = None
    if (attention := whole.attention) is not None and attention.rotary is not None:
        tables = _tables(attention, state, arguments, whole.dtype)
    keep = state.keep if state.kept else None
    return GpuPass(state.segments, tables, state.next_cached, keep, state.backend, state.find_again)


def _tables(
    attention: GpuAttention, state: PackState, arguments: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A rotary embedding's tables [T, r], made once for all layers that are given the same tensors; these are kept, so
    that no other tensor comes to their place."""
    given, kind = arguments["position_embeddings"], torch.float32 if attention.wide else dtype
    key = attention.rotary, kind, id(given[0]), id(given[1])
    if key not in state.tables:
        used, rotary = tables_of(arguments), attention.rotary
        assert used is not None and rotary is not None
        state.tables[key] = given, (rotary.table_in(kind, used[0]), rotary.table_in(kind, used[1]))
    return state.tables[key][1]
