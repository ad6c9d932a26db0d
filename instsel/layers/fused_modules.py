"""Norms, gated networks and products of a model in one pass each: how they are recognised, and their fused forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from instsel.kernels.gpu_layer import KERNELS, GpuNorm
from instsel.kernels.layer_elementwise import DTYPES as GPU_DTYPES
from instsel.kernels.layer_elementwise import GATES, LARGEST_ROW, add_norm, gate_rows
from instsel.kernels.layer_norms import Norm
from instsel.kernels.layer_operations import (
    ACTIVATIONS,
    DTYPES,
    can_multiply,
    gate_in_place,
    gated_linear,
    linear,
)
from instsel.kernels.native_arrays import Machine, array_of
from instsel.layers.attention import current_pack
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


class KnownNorm(NamedTuple):
    """A norm that the kernels compute: the attribute that holds its epsilon, what is added to its weight, and whether
    it is rounded before it is multiplied by that, which where it is one pass decides nothing."""

    epsilon: str
    offset: float
    centred: bool
    rounds_first: bool = True

    def of(self, module: Any) -> Norm:
        """The norm with the weights of a module, on a CPU."""
        bias = module._parameters.get("bias")
        return Norm.of(module.weight, self.offset, getattr(module, self.epsilon), bias, centred=self.centred)

    def on_gpu(self, module: Any) -> GpuNorm:
        """The norm with the weights of a module, on a GPU."""
        bias = module._parameters.get("bias")
        weights = module.weight.detach(), None if bias is None else bias.detach()
        epsilon = getattr(module, self.epsilon)
        return GpuNorm(weights[0], epsilon, self.offset, weights[1], self.centred, self.rounds_first)


def is_usable(weight: Any, backend: str = "cpu") -> bool:
    """Whether a backend's kernels take a weight where it is."""
    if type(weight) not in PLAIN_TENSORS:
        return False
    if backend == "triton":  # on a CPU under Triton's interpreter
        return weight.dtype in GPU_DTYPES
    return weight.device.type == "cpu" and weight.dtype in DTYPES


# Numbers whose last digit may differ where two libraries add up a row in another order.
_OTHER_BITS = 0.02


def is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def holds_others(module: nn.Module, *known: str) -> bool:
    """Whether a module itself has tensors but the known ones, which may do nothing until they are trained."""
    tensors = {**module._parameters, **module._buffers}
    return any(tensor is not None and name not in known for name, tensor in tensors.items())


def find_norm(module: nn.Module, backend: str = "cpu", *, gated: bool = False) -> KnownNorm | None:
    """How a norm with a weight of one dimension, and perhaps a bias, is computed, or, `gated`, one whose result is
    multiplied by the SiLU of what it is given besides; None for anything else."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    names = ("variance_epsilon", "eps", "epsilon")
    name = next((name for name in names if isinstance(getattr(module, name, None), float)), None)
    if name is None or weight is None or not is_usable(weight, backend) or weight.ndim != 1 or module._modules:
        return None
    if holds_others(module, "weight", "bias") or is_hooked(module):
        return None
    if bias is not None and (not is_usable(bias, backend) or bias.dtype != weight.dtype):
        return None
    if backend == "triton" and (not weight.is_contiguous() or len(weight) > LARGEST_ROW):
        return None
    kinds = [KnownNorm(name, offset, centred) for centred in (False, True) for offset in (0.0, 1.0)]
    try:
        own, x, drawn = _own_norm(module, torch.float32, gated)
        with _parameters(module, drawn):
            if backend != "triton":
                gate = x.flip(0) if gated else None
                return next((kind for kind in kinds if nearly_equal(own, _normed(kind.of(module), x, gate))), None)
            (kind,) = (kind for kind in kinds if nearly_equal(own, _plainly(kind, module, x)))
        return kind if weight.dtype == torch.float32 else _rounding(kind, module, weight.dtype)
    except Exception:  # whatever a part of another kind raises
        return None


def _own_norm(module: nn.Module, dtype: torch.dtype, gated: bool = False) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What a norm gives for random rows, gated by the same in reverse order, these, and weights drawn for it: its own
    may be so large that 1 more is a rounding of bfloat16."""
    like = torch.empty(0, dtype=dtype)
    present = [(name, parameter) for name, parameter in module._parameters.items() if parameter is not None]
    drawn = {name: random_like(len(p), like=like) + place for place, (name, p) in enumerate(present)}
    x = random_like(3, len(drawn["weight"]), like=like) + 1  # whose mean is not nothing
    with _parameters(module, drawn):
        return type(module).forward(module, x.clone(), *([x.flip(0)] if gated else [])), x, drawn


@contextmanager
def _parameters(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    before = module._parameters.copy()
    module._parameters.update({name: nn.Parameter(value, requires_grad=False) for name, value in values.items()})
    try:
        yield
    finally:
        module._parameters.update(before)


def _plainly(known: KnownNorm, module: nn.Module, x: Tensor) -> Tensor:
    """By the specification of the kernels."""
    norm = known.on_gpu(module)
    return add_norm(
        x, norm.weight, norm.epsilon, bias=norm.bias, weight_offset=norm.offset, centred=norm.centred,
        rounds_first=known.rounds_first,
    )  # fmt: skip


def _rounding(known: KnownNorm, module: nn.Module, dtype: torch.dtype) -> KnownNorm | None:
    """The same with what is seen of its roundings, by which a quarter of the numbers differ; None for a third way."""
    own, x, drawn = _own_norm(module, dtype)
    with _parameters(module, drawn):
        for first in (True, False):
            kind = known._replace(rounds_first=first)
            if float((_plainly(kind, module, x) != own).float().mean()) <= _OTHER_BITS:
                return kind
    return None


def _normed(norm: Norm, x: Tensor, gate: Tensor | None = None) -> Tensor:
    out = torch.empty_like(x)
    norm.into(array_of(x), array_of(out), Machine.now())
    return out if gate is None else gate_in_place(gate.clone(memory_format=torch.contiguous_format), out, "silu")


def norm_forward(module: Any, known: KnownNorm, *, gated: bool = False) -> Callable[..., Tensor]:
    norm = known.of(module)

    def forward(hidden_states: Tensor, *more: Tensor, **named: object) -> Tensor:
        kind, shape = module.weight.dtype, hidden_states.shape
        usual = all(isinstance(x, Tensor) and x.dtype == kind and x.shape == shape for x in (hidden_states, *more))
        if not usual or named or len(more) != gated:
            return type(module).forward(module, hidden_states, *more, **named)
        rows, *gates = (x.reshape(-1, shape[-1]) for x in (hidden_states, *more))
        return _normed(norm, rows.contiguous(), *gates).view(shape)

    return forward


def gpu_norm_forward(module: Any, known: KnownNorm) -> Callable[..., Tensor]:
    """On a GPU, with the sum that the layer before a norm has left to it."""
    norm = known.on_gpu(module)

    def forward(hidden_states: Tensor, *more: object, **named: object) -> Tensor:
        state = current_pack()
        added = None if state is None else state.left_to(hidden_states)
        if more or named or hidden_states.dtype != module.weight.dtype or hidden_states.requires_grad:
            if added is not None:
                hidden_states.view(added.shape).add_(added)
            return type(module).forward(module, hidden_states, *more, **named)
        rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        return norm.rows(rows, added).view(hidden_states.shape)

    return forward


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
