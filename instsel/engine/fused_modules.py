"""Norms, gated networks and products of a model in one pass each: how they are recognised, and their fused forwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from instsel.engine.replica import PLAIN_TENSORS
from instsel.kernels.layer_operations import (
    ACTIVATIONS,
    DTYPES,
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


def is_usable(weight: Any) -> bool:
    return type(weight) in PLAIN_TENSORS and weight.device.type == "cpu" and weight.dtype in DTYPES


def is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def holds_others(module: nn.Module, *known: str) -> bool:
    """Whether a module itself has tensors but the known ones, which may do nothing until they are trained."""
    tensors = {**module._parameters, **module._buffers}
    return any(tensor is not None and name not in known for name, tensor in tensors.items())


def find_norm(module: nn.Module) -> Norm | None:
    """Epsilon and weight offset of a root-mean-square norm with a weight of one dimension; None for anything else."""
    weight = module._parameters.get("weight")
    name = next((name for name in ("variance_epsilon", "eps") if isinstance(getattr(module, name, None), float)), None)
    if name is None or weight is None or not is_usable(weight) or weight.ndim != 1 or module._modules:
        return None
    if holds_others(module, "weight"):
        return None
    if is_hooked(module):
        return None
    x = random_like(3, weight.shape[0], like=weight)
    try:
        own = type(module).forward(module, x)
    except Exception:  # whatever a part of another kind raises
        return None
    for offset in (0.0, 1.0):
        if nearly_equal(own, rms_norm(x, weight.detach(), getattr(module, name), weight_offset=offset)):
            return name, offset
    return None


def norm_forward(module: Any, norm: Norm) -> Callable[[Tensor], Tensor]:
    epsilon, offset = getattr(module, norm[0]), norm[1]

    def forward(hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype != module.weight.dtype:
            return type(module).forward(module, hidden_states)
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        return rms_norm(flat, module.weight, epsilon, weight_offset=offset).view(hidden_states.shape)

    return forward


def find_activation(module: Any) -> str | None:
    """The activation of a gated feed-forward network `down(activation(gate(x)) * up(x))`; None for anything else."""
    projections: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(projection, nn.Linear) for projection in projections) or not hasattr(module, "act_fn"):
        return None
    if holds_others(module) or not all(is_usable(p.weight) and not is_hooked(p) for p in projections):
        return None
    points = torch.linspace(-8, 8, 257, dtype=torch.float32)
    for activation in ACTIVATIONS:
        try:
            if not torch.allclose(module.act_fn(points), _ACTIVATIONS[activation](points), atol=1e-6):
                continue
            x = random_like(3, projections[0].in_features, like=projections[0].weight)
            if nearly_equal(type(module).forward(module, x[None])[0], gated_forward(module, activation, x[None])[0]):
                return activation
        except Exception:  # whatever a part of another kind raises
            return None
    return None


def gated_forward(module: Any, activation: str, x: Tensor) -> Tensor:
    return module.down_proj(apply_gate(module, activation, x))


def apply_gate(module: Any, activation: str, x: Tensor) -> Tensor:
    """`activation(gate(x)) * up(x)`."""
    projections = module.gate_proj, module.up_proj
    if all(is_bare_product(projection) for projection in projections) and x.dtype == module.gate_proj.weight.dtype:
        flat = x.reshape(-1, x.shape[-1])
        gated = gated_linear(flat, module.gate_proj.weight, module.up_proj.weight, activation)
        return gated.view(*x.shape[:-1], -1)
    gate, up = (projection(x) for projection in projections)
    if gate.dtype not in DTYPES or gate.dtype != up.dtype:
        return _ACTIVATIONS[activation](gate) * up
    gate_in_place(gate.view(-1, gate.shape[-1]), up.view(-1, up.shape[-1]), activation)
    return gate


def is_bare_product(module: nn.Module) -> bool:
    """Whether a projection is a product with a weight and nothing else, so that it need not be called."""
    if type(module) is not nn.Linear or module.bias is not None or not is_usable(module.weight):
        return False
    return can_multiply(module.weight) and not is_hooked(module)


def linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    if x.dtype != module.weight.dtype:
        return nn.functional.linear(x, module.weight, module.bias)
    flat = x.reshape(-1, x.shape[-1])
    return linear(flat, module.weight, module.bias).view(*x.shape[:-1], module.out_features)


def random_like(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float32).to(like.dtype)


def nearly_equal(own: Tensor, fused: Tensor) -> bool:
    """Equal but for rounding; float32 sums are held to their last digits, bfloat16 to a few of its roundings."""
    tolerance = 1e-5 if own.dtype == torch.float32 else 4 * torch.finfo(own.dtype).eps
    own, fused = own.float(), fused.float()
    return bool((own - fused).norm() <= tolerance * own.norm())
