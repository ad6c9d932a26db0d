"""The experts of a mixture in one call: how they are recognised by what they compute on random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from instsel.kernels.layer_experts import ExpertGate, Experts, ExpertWeights
from instsel.kernels.native_arrays import has_bfloat16_products
from instsel.layers.attention import current_pack
from instsel.layers.expert_choice import are_experts
from instsel.layers.fused_modules import far_random, is_hooked, is_usable, nearly_equal, random_like

# Sizes of the weights that experts are tried with; all different, and different when doubled.
_HIDDEN, _INNER = 96, 32
_ROWS, _CHOSEN = 9, 2
_WEIGHTS = {"gate_up_proj", "down_proj"}
_BIASES = {"gate_up_proj_bias", "down_proj_bias"}


class KnownExperts(NamedTuple):
    """How experts' weights lie in memory, and what stands between their products."""

    outputs_last: bool  # [E, H, N] instead of [E, N, H]
    in_turns: bool  # a gate's number beside its up projection's, instead of all gates before
    gate: ExpertGate

    def of(self, module: Any) -> Experts:
        """With the weights of a module."""
        bias = module._parameters.get("gate_up_proj_bias")
        gate_up = self._outputs(module.gate_up_proj)
        inner = gate_up.shape[1] // 2
        gates, ups = (slice(0, None, 2), slice(1, None, 2)) if self.in_turns else (slice(inner), slice(inner, None))
        gate, up = (
            ExpertWeights(gate_up[:, part], None if bias is None else bias.detach()[:, part]) for part in (gates, ups)
        )
        down_bias = module._parameters.get("down_proj_bias")
        down = ExpertWeights(self._outputs(module.down_proj), None if down_bias is None else down_bias.detach())
        return Experts(gate, up, down, self.gate)

    def _outputs(self, weight: Tensor) -> Tensor:
        return weight.detach().transpose(1, 2) if self.outputs_last else weight.detach()


def find_experts(module: nn.Module) -> KnownExperts | None:
    """How a mixture's experts are computed; None for anything else, or weights that the kernel does not take."""
    parameters = {name for name, parameter in module._parameters.items() if parameter is not None}
    if parameters - _BIASES != _WEIGHTS or len(parameters & _BIASES) == 1 or is_hooked(module):
        return None
    if any(buffer is not None for buffer in module._buffers.values()) or not has_bfloat16_products():
        return None
    weights = [module._parameters[name] for name in parameters]
    if not all(is_usable(weight) and weight.dtype == torch.bfloat16 for weight in weights if weight is not None):
        return None
    if any(list(child.parameters()) or is_hooked(child) for child in module.children()):
        return None
    try:
        return next(known for known in _kinds(module) if known.of(module).can_run() and _is_computed(module, known))
    except Exception:  # whatever a part of another kind raises
        return None


def why_unknown(module: nn.Module) -> str:
    """Why experts that `find_experts` does not know run their own code; empty for anything else, and where the kernel
    is for no experts: another dtype or processor, or hooks."""
    weights = [p for p in module._parameters.values() if p is not None and p.ndim == 3]
    is_mixture = are_experts(module) or hasattr(module, "num_experts")
    if not weights or not is_mixture or is_hooked(module) or not has_bfloat16_products():
        return ""
    if not all(is_usable(weight) and weight.dtype == torch.bfloat16 for weight in weights):
        return ""
    names = {name for name, parameter in module._parameters.items() if parameter is not None}
    if names - _BIASES != _WEIGHTS or len(names & _BIASES) == 1:
        return f"it has {', '.join(sorted(names))} for weights, not gate_up_proj and down_proj"
    return "it is given, computes or is of the size of something else than the kernel takes"


def _kinds(module: Any) -> Iterator[KnownExperts]:
    down, gate_up = module.down_proj, module.gate_up_proj
    if down.ndim != 3 or gate_up.ndim != 3 or len(down) != len(gate_up):
        return
    numbers = {value for value in vars(module).values() if type(value) in (int, float) and value > 0}
    drawn = far_random(3, 2 * _INNER)
    gated = module._apply_gate(drawn.clone())
    for in_turns in (False, True):
        gate, up = (drawn[:, ::2], drawn[:, 1::2]) if in_turns else drawn.chunk(2, dim=-1)
        for function in _gates(sorted(numbers)):
            if torch.allclose(gated, function.of(gate, up), rtol=1e-5, atol=1e-5):
                # Square weights do not say which way they lie.
                yield from (KnownExperts(last, in_turns, function) for last in (False, True))


def _gates(numbers: list[float]) -> Iterator[ExpertGate]:
    """The usual ones, and those with numbers that a module holds."""
    yield ExpertGate()
    yield ExpertGate(gelu_tanh=True)
    for limit in (*numbers, math.inf):
        for alpha in (1.0, *numbers):
            for offset in (0.0, 1.0):
                yield ExpertGate(False, alpha, limit, offset)


def _is_computed(module: Any, known: KnownExperts) -> bool:
    """Whether a module gives the same with small random weights, a few rows of which choose any of its experts."""
    like, count = torch.empty(0, dtype=torch.bfloat16), len(module.gate_up_proj)
    shapes = {"gate_up_proj": [count, 2 * _INNER, _HIDDEN], "down_proj": [count, _HIDDEN, _INNER]}
    shapes |= {f"{name}_bias": shape[:2] for name, shape in shapes.items()}
    drawn = {name: 0.2 * random_like(*shape, like=like) for name, shape in shapes.items()}
    own = dict(module._parameters)
    for name in _WEIGHTS:
        if known.outputs_last:
            drawn[name] = drawn[name].transpose(1, 2).contiguous()
    x = random_like(_ROWS, _HIDDEN, like=like)
    scores = random_like(_ROWS, count, like=torch.empty(0, dtype=torch.float32))
    weights, chosen = scores.softmax(dim=-1).topk(min(_CHOSEN, count), dim=-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    try:
        module._parameters.update(
            {name: nn.Parameter(drawn[name], requires_grad=False) for name in own if name in drawn}
        )
        given = type(module).forward(module, x.clone(), chosen.clone(), weights.to(x.dtype))
        return nearly_equal(given, known.of(module).forward(x, chosen, weights.to(x.dtype)))
    except Exception:  # where the weights lie the other way
        return False
    finally:
        module._parameters.update(own)


def experts_forward(module: Any, known: KnownExperts) -> Callable[..., Any]:
    """The forward of a module with the kernel; with what it does not take, the module's own."""
    experts = known.of(module)

    def forward(x: Tensor, chosen: Tensor, weights: Tensor, *more: Any, **named: Any) -> Any:
        if more or named or x.dtype != torch.bfloat16 or x.ndim != 2 or chosen.ndim != 2 or x.requires_grad:
            return type(module).forward(module, x, chosen, weights, *more, **named)
        state = current_pack()
        return experts.forward(x.contiguous(), chosen, weights, None if state is None else state.workspace.storage)

    return forward
