"""A model's norms, products and gates in one pass each, and its layers in one run of kernels; on a GPU what stands
between products.

Each is recognised by what it computes on random numbers, not by its name, and put on a replica of the model: neither
the user's modules nor the modules of transformers' code are ever changed. Modules by themselves are for what no whole
layer computes: layers with parts of another kind, the last norm, and sequences that run outside a pack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from instsel.kernels.decoder_layer import DecoderLayer
from instsel.kernels.layer_operations import can_multiply
from instsel.layers.expert_choice import fixed_choice
from instsel.layers.fused_experts import KnownExperts, experts_forward, find_experts, why_unknown
from instsel.layers.fused_modules import (
    find_activation,
    gated_forward,
    gpu_gated_forward,
    is_hooked,
    is_usable,
    linear_forward,
)
from instsel.layers.fused_norms import KnownNorm, find_norm, gpu_norm_forward, norm_forward
from instsel.layers.gpu_layers import gives_the_same_on_gpu, gpu_forward, leave_sums, make_gpu_layer
from instsel.layers.layer_records import record_layers
from instsel.layers.replica import Replica
from instsel.layers.whole_layers import (
    LayerParts,
    OtherLayerError,
    find_whole_layer,
    gives_the_same,
    make_whole_layer,
    whole_forward,
)


class FusedLayers:
    """What of a model can be run in one pass, found once: modules by their place among a replica's modules.

    run          has the replica's model compute a small pack, in which its layers are seen; whole layers are for packs
                 alone
    backend      "cpu", or "triton" for what stands between the products of a GPU
    reasons      why layers run their own code, by the name of their class
    own_experts  why a mixture's experts do on a CPU, by the name of their class
    """

    @torch.no_grad()
    def __init__(self, replica: Replica, run: Callable[[], object] | None = None, backend: str = "cpu") -> None:
        self.backend = backend
        self.norms: dict[int, KnownNorm] = {}
        self.gated_norms: dict[int, KnownNorm] = {}
        self.gates: dict[int, str] = {}
        self.experts: dict[int, KnownExperts] = {}
        self.products: list[int] = []
        self.whole: dict[int, LayerParts] = {}
        self.reasons: dict[str, str] = {}
        self.own_experts: dict[str, str] = {}
        # A forward that somebody has put into a module is theirs.
        modules = [(i, m) for i, m in enumerate(replica.modules) if "forward" not in vars(m)]
        norms = {module: norm for _, module in modules if (norm := find_norm(module, backend))}
        for place, module in modules:
            if backend == "cpu" and (gated_norm := find_norm(module, gated=True)):
                self.gated_norms[place] = gated_norm
            elif module in norms:
                self.norms[place] = norms[module]
            elif activation := find_activation(module, backend):
                self.gates[place] = activation
            elif backend == "cpu":
                self._find_on_cpu(place, module)
        places = {module: place for place, module in modules}
        layers = [layer for layer in _layers(replica) if layer in places and _is_as_it_came(layer, replica)]
        if run is None:
            return
        within = {module for layer in layers for module in layer.modules()}
        same = gives_the_same_on_gpu if backend == "triton" else gives_the_same
        with fixed_choice(replica.modules):
            records, given = record_layers(layers, run, [norm for norm in norms if norm not in within])
            for layer, record in records.items():
                try:
                    self.whole[places[layer]] = find_whole_layer(layer, record, norms, backend, same)
                except OtherLayerError as error:
                    self.reasons.setdefault(type(layer).__name__, str(error))
        if backend == "triton":
            self.whole = leave_sums(self.whole, {places[layer]: record for layer, record in records.items()}, given)

    def _find_on_cpu(self, place: int, module: nn.Module) -> None:
        if experts := find_experts(module):
            self.experts[place] = experts
        elif type(module) is nn.Linear and is_usable(module.weight) and can_multiply(module.weight):
            self.products.append(place)
        elif why := why_unknown(module):
            self.own_experts.setdefault(type(module).__name__, why)

    def put_on(self, replica: Replica) -> list[DecoderLayer]:
        """Has the modules of a replica with the same signature run the fused forms; gives the layers that run whole
        on a CPU."""
        modules: list[Any] = replica.modules
        on_gpu = self.backend == "triton"
        for place, norm in self.norms.items():
            make = gpu_norm_forward if on_gpu else norm_forward
            replica.put_forward(modules[place], make(modules[place], norm))
        for place, norm in self.gated_norms.items():
            replica.put_forward(modules[place], norm_forward(modules[place], norm, gated=True))
        for place, activation in self.gates.items():
            gated = gpu_gated_forward if on_gpu else gated_forward
            replica.put_forward(modules[place], partial(gated, modules[place], activation))
        for place, experts in self.experts.items():
            replica.put_forward(modules[place], experts_forward(modules[place], experts))
        for place in self.products:
            replica.put_forward(modules[place], partial(linear_forward, modules[place]))
        found: list[DecoderLayer] = []
        for place, parts in self.whole.items():
            layer = modules[place]
            own = partial(type(layer).forward, layer)
            if on_gpu:
                replica.put_forward(layer, partial(gpu_forward, make_gpu_layer(layer, parts), parts, own))
            elif (whole := make_whole_layer(layer, parts)) is not None:
                found.append(whole)
                replica.put_forward(layer, partial(whole_forward, whole, parts, own))
        return found


def _layers(replica: Replica) -> list[nn.Module]:
    """The members of lists of modules that have parts, but for those of lists within others."""
    lists = [module for module in replica.modules if isinstance(module, nn.ModuleList)]
    within = {inner for one in lists for inner in one.modules() if inner is not one}
    return [layer for one in lists if one not in within for layer in one if layer._modules]


def _is_as_it_came(layer: nn.Module, replica: Replica) -> bool:
    """Whether nobody looks into the layer by hooks or has put forwards of theirs into its modules."""
    return not any(
        is_hooked(module) or ("forward" in vars(module) and module not in replica.ours) for module in layer.modules()
    )
