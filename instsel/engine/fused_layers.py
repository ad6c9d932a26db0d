"""A model's norms, products, gates, rotary embeddings and residual sums in one pass each, while it runs on a CPU.

Each is recognised by what it computes on random numbers, not by its name, and put back when a run ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from instsel.kernels.layer_operations import (
    ACTIVATIONS,
    DTYPES,
    can_multiply,
    gate_in_place,
    gated_linear,
    linear,
    rms_norm,
    rotate_in_place,
)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"),
}


Norm = tuple[float, float]  # epsilon, and what is added to the weight


class FusedLayers:
    """What of a model can be run in one pass, found once at load."""

    @torch.inference_mode()
    def __init__(self, model: nn.Module) -> None:
        self._forwards: list[tuple[nn.Module, Callable[..., Any]]] = []
        self._rotary: dict[Any, Callable[..., Any]] = {}  # modelling module: its own rotary function
        parameter = next(model.parameters())
        if parameter.device.type != "cpu" or parameter.dtype not in DTYPES:
            return
        # A forward that somebody has put into a module is theirs.
        modules = [module for module in model.modules() if "forward" not in vars(module)]
        norms = {module: norm for module in modules if (norm := _find_norm(module))}
        for module in modules:
            if module in norms:
                self._forwards.append((module, _norm_forward(module, norms[module])))
            elif activation := _find_activation(module):
                self._forwards.append((module, partial(_gated_forward, module, activation)))
            elif type(module) is nn.Linear and can_multiply(module.weight):
                self._forwards.append((module, partial(_linear_forward, module)))
            elif _is_pre_norm_layer(module, norms):
                self._forwards.append((module, partial(_pre_norm_forward, module, norms)))
        for source in {sys.modules[type(module).__module__] for module in model.modules()}:
            if _rotates_halves(source):
                self._rotary[source] = source.apply_rotary_pos_emb

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this block the model runs the fused forms."""
        for module, forward in self._forwards:
            module.forward = forward
        for source, own in self._rotary.items():
            source.apply_rotary_pos_emb = partial(_rotate, own)
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward
            for source, own in self._rotary.items():
                source.apply_rotary_pos_emb = own


def _find_norm(module: nn.Module) -> Norm | None:
    """Epsilon and weight offset of a root-mean-square norm with a weight of one dimension; None for anything else."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(epsilon, float) or not isinstance(weight, Tensor) or weight.ndim != 1 or list(module.children()):
        return None
    x = _random(3, weight.shape[0], like=weight)
    try:
        own = module(x)
    except Exception:  # whatever a part of another kind raises
        return None
    for offset in (0.0, 1.0):
        if _equal(own, rms_norm(x, weight.detach(), epsilon, weight_offset=offset)):
            return epsilon, offset
    return None


def _norm_forward(module: nn.Module, norm: Norm) -> Callable[[Tensor], Tensor]:
    def forward(hidden_states: Tensor) -> Tensor:
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        return rms_norm(flat, module.weight, norm[0], weight_offset=norm[1]).view(hidden_states.shape)

    return forward


def _find_activation(module: Any) -> str | None:
    """The activation of a gated feed-forward network `down(activation(gate(x)) * up(x))`; None for anything else."""
    projections: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(projection, nn.Linear) for projection in projections) or not hasattr(module, "act_fn"):
        return None
    points = torch.linspace(-8, 8, 257)
    for activation in ACTIVATIONS:
        try:
            if not torch.allclose(module.act_fn(points), _ACTIVATIONS[activation](points), atol=1e-6):
                continue
            x = _random(3, projections[0].in_features, like=projections[0].weight)
            if _equal(module(x[None])[0], _gated_forward(module, activation, x[None])[0]):
                return activation
        except Exception:  # whatever a part of another kind raises
            return None
    return None


def _gated_forward(module: Any, activation: str, x: Tensor) -> Tensor:
    projections = module.gate_proj, module.up_proj
    if all(_is_bare_product(projection) for projection in projections) and x.dtype == module.gate_proj.weight.dtype:
        flat = x.reshape(-1, x.shape[-1])
        gated = gated_linear(flat, module.gate_proj.weight, module.up_proj.weight, activation)
        return module.down_proj(gated.view(*x.shape[:-1], -1))
    gate, up = (projection(x) for projection in projections)
    gate_in_place(gate.view(-1, gate.shape[-1]), up.view(-1, up.shape[-1]), activation)
    return module.down_proj(gate)


def _is_bare_product(module: nn.Module) -> bool:
    """Whether a projection is a product with a weight and nothing else, so that it need not be called."""
    if type(module) is not nn.Linear or module.bias is not None or not can_multiply(module.weight):
        return False
    return not (module._forward_hooks or module._forward_pre_hooks)


def _linear_forward(module: nn.Linear, x: Tensor) -> Tensor:
    if x.dtype != module.weight.dtype:
        return nn.functional.linear(x, module.weight, module.bias)
    flat = x.reshape(-1, x.shape[-1])
    return linear(flat, module.weight, module.bias).view(*x.shape[:-1], module.out_features)


def _is_pre_norm_layer(layer: Any, norms: dict[nn.Module, Norm]) -> bool:
    """Whether a layer is `x + attention(norm(x))`, then `x + mlp(norm(x))`, seen with stand-ins for both parts."""
    parts: list[Any] = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    if any(part not in norms for part in parts) or not all(hasattr(layer, name) for name in ("self_attn", "mlp")):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    x = _random(3, parts[0].weight.shape[0], like=parts[0].weight)[None]
    try:
        layer.self_attn, layer.mlp = _StandIn(0.5, 0.25, pair=True), _StandIn(-0.75, 1.5, pair=False)
        own = layer(x.clone(), attention_mask=None, position_embeddings=None)
        own = own[0] if isinstance(own, tuple) else own
        return _equal(own, _pre_norm_forward(layer, norms, x.clone()))
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


def _pre_norm_forward(layer: Any, norms: dict[nn.Module, Norm], hidden_states: Tensor, **kwargs: Any) -> Tensor:
    attended, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
    norm = layer.post_attention_layernorm
    epsilon, offset = norms[norm]
    size = hidden_states.shape[-1]
    # The sum is kept in hidden_states, which nothing else reads: the layer before made it for this one.
    normed = rms_norm(
        hidden_states.view(-1, size), norm.weight, epsilon, weight_offset=offset, update=attended.view(-1, size)
    )
    return hidden_states.add_(layer.mlp(normed.view(hidden_states.shape)))


def _rotates_halves(source: Any) -> bool:
    """Whether a modelling module's rotary function turns the halves of the whole head against each other."""
    own = getattr(source, "apply_rotary_pos_emb", None)
    if own is None:
        return False
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 5, heads, 8, generator=generator).transpose(1, 2) for heads in (4, 2))
    cos, sin = (torch.randn(1, 5, 8, generator=generator) for _ in range(2))
    try:
        expected = own(q.clone(), k.clone(), cos, sin)
        copies = [x.transpose(1, 2).clone() for x in (q, k)]
        return all(
            torch.allclose(want, rotate_in_place(x[0], cos[0], sin[0]).transpose(0, 1)[None], atol=1e-5)
            for want, x in zip(expected, copies, strict=True)
        )
    except Exception:  # whatever a part of another kind raises
        return False


def _rotate(own: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **more: Any) -> Any:
    """Rotary embedding in place of fresh projections [1, heads, T, d]; the model's own where the layout is another."""
    in_order = [x.transpose(1, 2) for x in (q, k)]
    usable = all(x.is_contiguous() and x.shape[0] == 1 and x.dtype == cos.dtype and x.is_inference() for x in in_order)
    if rest or more or not usable or cos.shape[:1] != (1,) or cos.shape[-1] != q.shape[-1]:
        return own(q, k, cos, sin, *rest, **more)
    for x in in_order:
        rotate_in_place(x[0], cos[0].contiguous(), sin[0].contiguous())
    return q, k


def _random(*shape: int, like: Tensor) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(like.dtype)


def _equal(own: Tensor, fused: Tensor) -> bool:
    """Equal but for rounding; float32 sums are held to their last digits, bfloat16 to a few of its roundings."""
    tolerance = 1e-5 if own.dtype == torch.float32 else 4 * torch.finfo(own.dtype).eps
    own, fused = own.float(), fused.float()
    return bool((own - fused).norm() <= tolerance * own.norm())
