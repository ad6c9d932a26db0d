"""Decoder layers `x + attention(norm(x))`, then `x + mlp(norm(x))`: each sum in one pass with what comes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from instsel.engine.fused_modules import (
    Norm,
    apply_gate,
    holds_others,
    is_bare_product,
    is_hooked,
    nearly_equal,
    random_like,
)
from instsel.kernels.layer_operations import add_linear, rms_norm


def is_pre_norm_layer(layer: Any, norms: Mapping[nn.Module, Norm]) -> bool:
    """Whether a layer is `x + attention(norm(x))`, then `x + mlp(norm(x))`, seen with stand-ins for both parts."""
    parts: list[Any] = [getattr(layer, name, None) for name in ("input_layernorm", "post_attention_layernorm")]
    if any(part not in norms for part in parts) or not all(hasattr(layer, name) for name in ("self_attn", "mlp")):
        return False
    if holds_others(layer):
        return False
    attention, mlp = layer.self_attn, layer.mlp
    x = random_like(3, parts[0].weight.shape[0], like=parts[0].weight)[None]
    try:
        layer.self_attn, layer.mlp = _StandIn(0.5, 0.25, pair=True), _StandIn(-0.75, 1.5, pair=False)
        own = type(layer).forward(layer, x.clone(), attention_mask=None, position_embeddings=None)
        own = own[0] if isinstance(own, tuple) else own
        return nearly_equal(own, pre_norm_forward(layer, norms[parts[1]], None, x.clone()))
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


def pre_norm_forward(
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


def _add_mlp(mlp: Any, activation: str | None, x: Tensor, total: Tensor) -> Tensor:
    """`total += mlp(x)`, by the last product itself where it is one of a gated network with nothing around it."""
    if activation is None or is_hooked(mlp) or not is_bare_product(mlp.down_proj):
        return total.add_(mlp(x))
    gated = apply_gate(mlp, activation, x)
    if gated.dtype != mlp.down_proj.weight.dtype:
        return total.add_(mlp.down_proj(gated))
    add_linear(gated.view(-1, gated.shape[-1]), mlp.down_proj.weight, total.view(-1, total.shape[-1]))
    return total
