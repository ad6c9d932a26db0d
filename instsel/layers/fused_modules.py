"""Gated networks and products of a model in one pass each: how they are recognised, and their fused forwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from instsel.kernels.gpu_layer import KERNELS
from instsel.kernels.layer_elementwise import DTYPES as GPU_DTYPES
from instsel.kernels.layer_elementwise import GATES, gate_rows
from instsel.kernels.layer_operations import (
    ACTIVATIONS,
    DTYPES,
    can_multiply,
    gate_in_place,
    gated_linear,
    linear,
)
from instsel.layers.replica import PLAIN_TENSORS
from instsel.layers.stand_ins import StandIn, replaced

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
    "gelu": nn.functional.gelu,
}


def known_activations(backend: str) -> tuple[str, ...]:
    """Those that a backend's kernels compute."""
    return GATES if backend == "triton" else ACTIVATIONS


def is_usable(weight: Any, backend: str = "cpu") -> bool:
    """Whether a backend's kernels take a weight where it is."""
    if type(weight) not in PLAIN_TENSORS:
        return False
    if backend == "triton":  # on a CPU under Triton's interpreter
        return weight.dtype in GPU_DTYPES
    return weight.device.type == "cpu" and weight.dtype in DTYPES


def is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def holds_others(module: nn.Module, *known: str) -> bool:
    """Whether a module itself has tensors but the known ones, which may do nothing until they are trained."""
    tensors = {**module._parameters, **module._buffers}
    return any(tensor is not None and name not in known for name, tensor in tensors.items())


def find_activation(module: Any, backend: str = "cpu") -> str | None:
    """The activation of a gated feed-forward network `down(activation(gate(x)) * up(x))`; None for anything else."""
    projections: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(projection, nn.Linear) for projection in projections) or not hasattr(module, "act_fn"):
        return None
    if holds_others(module) or not all(is_usable(p.weight, backend) and not is_hooked(p) for p in projections):
        return None
    points = torch.linspace(-8, 8, 257, dtype=torch.float32)
    run = gated_forward if backend == "cpu" else gpu_gated_forward
    for activation in known_activations(backend):
        try:
            if not torch.allclose(module.act_fn(points), ACTIVATION_FUNCTIONS[activation](points), atol=1e-6):
                continue
            x = random_like(3, projections[0].in_features, like=projections[0].weight)[None]
            x = x.to(projections[0].weight.device)
            if not nearly_equal(type(module).forward(module, x)[0], run(module, activation, x)[0]):
                continue
            if _gates_all(module, activation):
                return activation
        except Exception:  # whatever a part of another kind raises
            return None
    return None


def _gates_all(module: Any, activation: str) -> bool:
    """Whether numbers of any size go through a network's activation and product as they are, without a limit."""
    gate, up = far_random(2, 3, 257)
    parts = {"gate_proj": gate, "up_proj": up}
    stand_ins = {name: StandIn(lambda _, made=made: made.clone()) for name, made in parts.items()}
    with replaced(module, stand_ins | {"down_proj": StandIn(lambda x: x)}):
        own = type(module).forward(module, torch.zeros_like(gate))
    return torch.allclose(own, ACTIVATION_FUNCTIONS[activation](gate) * up, rtol=1e-5, atol=1e-6)


def gated_forward(module: Any, activation: str, x: Tensor) -> Tensor:
    return module.down_proj(apply_gate(module, activation, x))


def gpu_gated_forward(module: Any, activation: str, x: Tensor) -> Tensor:
    """The same with torch's products, and one kernel between them."""
    gate, up = module.gate_proj(x), module.up_proj(x)
    gate_rows(gate.view(-1, gate.shape[-1]), up.view(-1, up.shape[-1]), activation, backend=KERNELS)
    return module.down_proj(gate)


def apply_gate(module: Any, activation: str, x: Tensor) -> Tensor:
    """`activation(gate(x)) * up(x)`."""
    projections = module.gate_proj, module.up_proj
    if all(is_bare_product(projection) for projection in projections) and x.dtype == module.gate_proj.weight.dtype:
        flat = x.reshape(-1, x.shape[-1])
        gated = gated_linear(flat, module.gate_proj.weight, module.up_proj.weight, activation)
        return gated.view(*x.shape[:-1], -1)
    gate, up = (projection(x) for projection in projections)
    if gate.dtype not in DTYPES or gate.dtype != up.dtype:
        return ACTIVATION_FUNCTIONS[activation](gate) * up
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


def far_random(*shape: int) -> Tensor:
    """float32 numbers of which every seventh or so is far larger than the rest: beyond any limit to which a network's
    activations are held, and which numbers of the usual size do not reach."""
    made = random_like(*shape, like=torch.empty(0, dtype=torch.float32))
    return made * torch.where(made.abs() > 1.5, 1e4, 3.0)


def nearly_equal(own: Tensor, fused: Tensor) -> bool:
    """Equal but for rounding; float32 sums are held to their last digits, bfloat16 to a few of its roundings."""
    tolerance = 1e-5 if own.dtype == torch.float32 else 4 * torch.finfo(own.dtype).eps
    own, fused = own.float(), fused.float()
    return bool((own - fused).norm() <= tolerance * own.norm())
