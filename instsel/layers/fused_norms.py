"""Norms of a model in one pass each: how they are recognised, and their fused forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from instsel.kernels.gpu_layer import GpuNorm
from instsel.kernels.layer_elementwise import LARGEST_ROW, add_norm
from instsel.kernels.layer_norms import Norm
from instsel.kernels.layer_operations import gate_in_place
from instsel.kernels.native_arrays import Machine, array_of
from instsel.layers.attention import current_pack
from instsel.layers.fused_modules import holds_others, is_hooked, is_usable, nearly_equal, random_like

# Numbers whose last digit may differ where two libraries add up a row in another order.
_OTHER_BITS = 0.02


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
