"""A model's norms, products, gates, rotary embeddings and residual sums in one pass each, while it runs on a CPU.

Each is recognised by what it computes on random numbers, not by its name, and put on a replica of the model: neither
the user's modules nor the modules of transformers' code are ever changed.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import nn

from instsel.engine.attention import AttentionCall
from instsel.engine.fused_modules import (
    Norm,
    find_activation,
    find_norm,
    gated_forward,
    is_hooked,
    is_usable,
    linear_forward,
    norm_forward,
)
from instsel.engine.fused_rotary import Rotary, rotary_functions, rotating_forward
from instsel.engine.pre_norm_layers import is_pre_norm_layer, pre_norm_forward
from instsel.engine.replica import Replica
from instsel.engine.whole_layers import find_whole_layer, make_whole_layer, whole_forward
from instsel.kernels.decoder_layer import DecoderLayer
from instsel.kernels.layer_operations import can_multiply


class FusedLayers:
    """What of a model can be run in one pass, found once: modules by their place among a replica's modules."""

    @torch.no_grad()
    def __init__(self, replica: Replica) -> None:
        self.norms: dict[int, Norm] = {}
        self.gates: dict[int, str] = {}
        self.products: list[int] = []
        self.layers: dict[int, Norm] = {}  # with the norm that takes the sum
        self.whole: dict[int, AttentionCall] = {}  # those of the layers that one run of kernels computes
        self.rotary: set[Rotary] = set()
        # A forward that somebody has put into a module is theirs.
        modules = [(i, m) for i, m in enumerate(replica.modules) if "forward" not in vars(m)]
        norms = {module: norm for _, module in modules if (norm := find_norm(module))}
        for place, module in modules:
            if module in norms:
                self.norms[place] = norms[module]
            elif activation := find_activation(module):
                self.gates[place] = activation
            elif type(module) is nn.Linear and is_usable(module.weight) and can_multiply(module.weight):
                self.products.append(place)
            elif is_pre_norm_layer(module, norms):
                self.layers[place] = norms[cast(Any, module).post_attention_layernorm]
        activations = {replica.modules[place]: activation for place, activation in self.gates.items()}
        for place in self.layers:
            layer: Any = replica.modules[place]
            if layer.mlp in activations and (call := find_whole_layer(layer, norms, activations[layer.mlp])):
                self.whole[place] = call
        if any(is_usable(parameter) for module in replica.modules for parameter in module._parameters.values()):
            self.rotary = rotary_functions({type(module) for module in replica.modules})

    def put_on(self, replica: Replica) -> list[DecoderLayer]:
        """Has the modules of a replica with the same signature run the fused forms; gives the layers that run whole."""
        modules: list[Any] = replica.modules
        for place, norm in self.norms.items():
            replica.put_forward(modules[place], norm_forward(modules[place], norm))
        gates = {modules[place]: activation for place, activation in self.gates.items()}
        for module, activation in gates.items():
            replica.put_forward(module, partial(gated_forward, module, activation))
        for place in self.products:
            replica.put_forward(modules[place], partial(linear_forward, modules[place]))
        norms = {modules[place]: norm for place, norm in self.norms.items()}
        found: list[DecoderLayer] = []
        for place, norm in self.layers.items():
            layer = modules[place]
            if not is_hooked(layer.post_attention_layernorm):  # a hook must see it called
                gate = gates.get(layer.mlp)
                by_parts = partial(pre_norm_forward, layer, norm, gate)
                whole = self._whole_layer(place, layer, gate, norms)
                found += [] if whole is None else [whole]
                replica.put_forward(layer, by_parts if whole is None else partial(whole_forward, whole, by_parts))
        if not self.rotary:
            return found
        rotating = {kind: rotating_forward(kind, self.rotary) for kind in {type(module) for module in modules}}
        for module in modules:
            if "forward" not in vars(module) and (forward := rotating[type(module)]) is not None:
                replica.put_forward(module, MethodType(forward, module))
        return found

    def _whole_layer(
        self, place: int, layer: Any, gate: str | None, norms: dict[nn.Module, Norm]
    ) -> DecoderLayer | None:
        call = self.whole.get(place)
        return None if call is None or gate is None else make_whole_layer(layer, norms, gate, call)
