"""A model's norms, products, gates, rotary embeddings and residual sums in one pass each, while it runs on a CPU.

Each is recognised by what it computes on random numbers, not by its name, and put on a replica of the model: neither
the user's modules nor the modules of transformers' code are ever changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from instsel.engine.fused_rotary import Rotary, rotary_functions, rotating_forward
from instsel.engine.replica import PLAIN_TENSORS, Replica
from instsel.kernels.layer_operations import (
    ACTIVATIONS,
    DTYPES,
    add_linear,
    can_multiply,
    gate_in_place,
    gated_linear,
    linear,
    rms_norm,
)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
}


Norm = tuple[str, float]  # the attribute that holds epsilon, and what is added to the weight


class FusedLayers:
    """What of a model can be run in one pass, found once: modules by their place among a replica's modules."""

    @torch.no_grad()
    def __init__(self, replica: Replica) -> None:
        self.norms: dict[int, Norm] = {}
        self.gates: dict[int, str] = {}
        self.products: list[int] = []
        self.layers: dict[int, Norm] = {}  # with the norm that takes the sum
        self.rotary: set[Rotary] = set()
        # A forward that somebody has put into a module is theirs.
        modules = [(i, m) for i, m in enumerate(replica.modules) if "forward" not in vars(m)]
        norms = {module: norm for _, module in modules if (norm := _find_norm(module))}
        for place, module in modules:
            if module in norms:
                self.norms[place] = norms[module]
            elif activation := _find_activation(module):
                self.gates[place] = activation
            elif type(module) is nn.Linear and _is_usable(module.weight) and can_multiply(module.weight):
                self.products.append(place)
            elif _is_pre_norm_layer(module, norms):
                self.layers[place] = norms[cast(Any, module).post_attention_layernorm]
        if any(_is_usable(parameter) for module in replica.modules for parameter in module._parameters.values()):
            self.rotary = rotary_functions({type(module) for module in replica.modules})

    def put_on(self, replica: Replica) -> None:
        """Has the modules of a replica with the same signature run the fused forms."""
        modules: list[Any] = replica.modules
        for place, norm in self.norms.items():
            replica.put_forward(modules[place], _norm_forward(modules[place], norm))
        gates = {modules[place]: activation for place, activation in self.gates.items()}
        for module, activation in gates.items():
            replica.put_forward(module, partial(_gated_forward, module, activation))
        for place in self.products:
            replica.put_forward(modules[place], partial(_linear_forward, modules[place]))
        for place, norm in self.layers.items():
            layer = modules[place]
            if not _is_hooked(layer.post_attention_layernorm):  # a hook must see it called
                gate = gates.get(layer.mlp)
                replica.put_forward(layer, partial(_pre_norm_forward, layer, norm, gate))
        if not self.rotary:
            return
        rotating = {kind: rotating_forward(kind, self.rotary) for kind in {type(module) for module in modules}}
        for module in modules:
            if "forward" not in vars(module) and (forward := rotating[type(module)]) is not None:
                replica.put_forward(module, MethodType(forward, module))


def _is_usable(weight: Any) -> bool:
    return type(weight) in PLAIN_TENSORS and weight.device.type == "cpu" and weight.dtype in DTYPES


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _find_norm(module: nn.Module) -> Norm | None:
    """Epsilon and weight offset of a root-mean-square norm with a weight of one dimension; None for anything else."""
    weight = module._parameters.get("weight")
    name = next((name for name in ("variance_epsilon", "eps") if isinstance(getattr(module, name, None), float)), None)
    if name is None or weight is None or not _is_usable(weight) or weight.ndim != 1 or module._modules:
        return None
    if _is_hooked(module):
        return None
    x = _random(3, weight.shape[0], like=weight)
    try:
        own = type(module).forward(module, x)
    except Exception:  # whatever a part of another kind raises
        return None
    for offset in (0.0, 1.0):
        if _equal(own, rms_norm(x, weight.detach(), getattr(module, name), weight_offset=offset)):
            return name, offset
    return None


def _norm_forward(module: Any, norm: Norm) -> Callable[[Tensor], Tensor]:
    epsilon, offset = getattr(module, norm[0]), norm[1]

    def forward(hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != module.weight.dtype:
            return type(module).forward(module, hidden_states)
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        return rms_norm(flat, module.weight, epsilon, weight_offset=offset).view(hidden_states.shape)

    return forward


def _find_activation(module: Any) -> str | None:
    """The activation of a gated feed-forward network `down(activation(gate(x)) * up(x))`; None for anything else."""
    projections: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(projection, nn.Linear) for projection in projections) or not hasattr(module, "act_fn"):
        return None
    if not all(_is_usable(p.weight) and not _is_hooked(p) for p in projections):
        return None
    points = torch.linspace(-8, 8, 257, dtype=torch.float32)
    for activation in ACTIVATIONS:
        try:
            if not torch.allclose(module.act_fn(points), _ACTIVATIONS[activation](points), atol=1e-6):
                continue
            x = _random(3, projections[0].in_features, like=projections[0].weight)
            if _equal(type(module).forward(module, x[None])[0], _gated_forward(module, activation, x[None])[0]):
                return activation
        except Exception:  # whatever a part of another kind raises
            return None
    return None


def _gated_forward(module: Any, activation: str, x: Tensor) -> Tensor:
    return module.down_proj(_gated(module, activation, x))


def _gated(module: Any, activation: str, x: Tensor) -> Tensor:
    """`activation(gate(x)) * up(x)`."""
    projections = module.gate_proj, module.up_proj
    if all(_is_bare_product(projection) for projection in projections) and x.dtype == module.gate_proj.weight.dtype:
        flat = x.reshape(-1, x.shape[-1])
        gated = gated_linear(flat, module.gate_proj.weight, module.up_proj.weight, activation)
        return gated.view(*x.shape[:-1], -1)
    gate, up = (projection(x) for projection in projections)
    if gate.dtype not in DTYPES or gate.dtype != up.dtype:
        return _ACTIVATIONS[activation](gate) * up
    gate_in_place(gate.view(-1, gate.shape[-1]), up.view(-1, up.shape[-1]), activation)
    return gate


def _add_mlp(mlp: Any, activation: str | None, x: Tensor, total: Tensor) -> Tensor:
    """`total += mlp(x)`, by the last product itself where it is one of a gated network with nothing around it."""
    if activation is None or _is_hooked(mlp) or not _is_bare_product(mlp.down_proj):
        return total.add_(mlp(x))
    gated = _gated(mlp, activation, x)
    if gated.dtype != mlp.down_proj.weight.dtype:
        return total.add_(mlp.down_proj(gated))
    add_linear(gated.view(-1, gated.shape[-1]), mlp.down_proj.weight, total.view(-1, total.shape[-1]))
    return total


def _is_bare_product(module: nn.Module) -> bool:
    """Whether a projection is a product with a weight and nothing else, so that it need not be called."""
    if type(module) is not nn.Linear or module.bias is not None or not _is_usable(module.weight):
        return False
    return can_multiply(module.weight) and not _is_hooked(module)


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    if x.dtype != module.weight.dtype:
        return nn.functional.linear(x, module.weight, module.bias)
    flat = x.reshape(-1, x.shape[-1])
    return linear(flat, module.weight, module.bias).view(*x.shape[:-1], module.out_features)


def _is_pre_norm_layer(layer: Any, norms: Mapping[nn.Module, Norm]) -> bool:
    """Whether a layer is `x + attention(norm(x))`, then `x + mlp(norm(x))`, seen with stand-ins for both parts."""
    parts: list[Any] = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    if any(part not in norms for part in parts) or not all(hasattr(layer, name) for name in ("self_attn", "mlp")):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    x = _random(3, parts[0].weight.shape[0], like=parts[0].weight)[None]
    try:
        layer.self_attn, layer.mlp = _StandIn(0.5, 0.25, pair=True), _StandIn(-0.75, 1.5, pair=False)
        own = type(layer).forward(layer, x.clone(), attention_mask=None, position_embeddings=None)
        own = own[0] if isinstance(own, tuple) else own
        return _equal(own, _pre_norm_forward(layer, norms[parts[1]], None, x.clone()))
    except Exception:  # whatever a part of another kind raises
        return False
    finally:
        layer.self_attn, layer.mlp = attention, mlp


class _StandIn(nn.Module):
    """A part of a layer replaced by something whose effect on the layer's result is plain to see."""

    def __init__(self, factor: float, offset: float, *, pair: bool) -> None:
        super().__init__()
        self.factor, self.offset, self.pair = factor, offset, pair

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        out = hidden_states * self.factor + self.offset
        return (out, None) if self.pair else out


def _pre_norm_forward(
    layer: Any, norm_found: Norm, activation: str | None, hidden_states: Tensor, **kwargs: Any
) -> Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    norm = layer.post_attention_layernorm
    epsilon, offset = getattr(norm, norm_found[0]), norm_found[1]
    if not hidden_states.dtype == attended.dtype == norm.weight.dtype:
        hidden_states = hidden_states + attended
        return hidden_states + layer.mlp(norm(hidden_states))
    size = hidden_states.shape[-1]
    # The sum is kept in hidden_states, which nothing else reads: the layer before made it for this one.
    normed = rms_norm(
        hidden_states.view(-1, size), norm.weight, epsilon, weight_offset=offset, update=attended.view(-1, size)
    )
    return _add_mlp(layer.mlp, activation, normed.view(hidden_states.shape), hidden_states)


def _random(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float32).to(like.dtype)


def _equal(own: Tensor, fused: Tensor) -> bool:
    """Equal but for rounding; float32 sums are held to their last digits, bfloat16 to a few of its roundings."""
    tolerance = 1e-5 if own.dtype == torch.float32 else 4 * torch.finfo(own.dtype).eps
    own, fused = own.float(), fused.float()
    return bool((own - fused).norm() <= tolerance * own.norm())
