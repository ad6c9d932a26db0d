"""Decoder layers of the usual kind in one run of kernels, where nothing that somebody has added would be passed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from instsel.engine.attention import (
    AttentionCall,
    PackState,
    PackStoppedError,
    attending_along_tree,
    current_pack,
    running,
)
from instsel.engine.fused_modules import Norm, holds_others, is_hooked, is_usable, nearly_equal, random_like
from instsel.engine.pre_norm_layers import pre_norm_forward
from instsel.kernels import TreeSegments
from instsel.kernels.decoder_layer import Attention, DecoderLayer
from instsel.kernels.decoder_layer import Norm as LayerNorm
from instsel.kernels.layer_products import GatedProduct, Product, make_product
from instsel.kernels.native_arrays import array_of

Norms = Mapping[nn.Module, Norm]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_HEAD_NORMS = ("q_norm", "k_norm")
# Of what a decoder gives its layers, all that need not be None.
_WITHOUT_EFFECT = {"position_embeddings", "position_ids", "cache_position", "use_cache"}


def find_whole_layer(layer: Any, norms: Norms, activation: str) -> AttentionCall | None:
    """What a layer, of `pre_norm_layers`, asks of attention, if `DecoderLayer` computes the same; None if not."""
    try:
        return _find_call(layer, norms, activation) if _has_known_parts(layer, norms) else None
    except Exception:  # whatever a part of another kind raises
        return None


def _has_known_parts(layer: Any, norms: Norms) -> bool:
    """Whether nothing but projections and norms of heads is in the attention, and all parts are as they came."""
    attention, mlp = layer.self_attn, layer.mlp
    head_norms = _head_norms(attention)
    known = {*_PROJECTIONS, *(name for name, part in zip(_HEAD_NORMS, head_norms, strict=True) if part is not None)}
    if holds_others(attention) or {name for name, part in attention._modules.items() if part is not None} != known:
        return False
    linear = [*(getattr(attention, name) for name in _PROJECTIONS), mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if not all(type(part) is nn.Linear and is_usable(part.weight) for part in linear):
        return False
    if any(part.bias is not None for part in linear[3:]):
        return False
    normed = [part for part in (layer.input_layernorm, layer.post_attention_layernorm, *head_norms) if part is not None]
    inner = [part for part in layer.modules() if part is not layer]
    return all(part in norms for part in normed) and not any(is_hooked(p) or "forward" in vars(p) for p in inner)


def _head_norms(attention: Any) -> tuple[Any, Any]:
    return getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)


def _find_call(layer: Any, norms: Norms, activation: str) -> AttentionCall | None:
    weight, size = layer.self_attn.q_proj.weight, layer.self_attn.head_dim
    x = random_like(5, weight.shape[1], like=weight)[None]
    rotary = tuple(random_like(2, 1, 5, size, like=weight))
    state = PackState(TreeSegments.from_lists([0, 2, 5], [[], [(0, 2)]]))  # two tokens, then three
    norm = norms[layer.post_attention_layernorm]
    with attending_along_tree(layer.self_attn.config), running(state):
        own = pre_norm_forward(layer, norm, None, x.clone(), attention_mask=None, position_embeddings=rotary)
    whole = make_whole_layer(layer, norms, activation, state.calls[0])
    if whole is None:
        return None
    whole.run(x[0], rotary[0][0], rotary[1][0], state.memory_of(whole, x.dtype))
    return state.calls[0] if nearly_equal(own, x) else None


def make_whole_layer(layer: Any, norms: Norms, activation: str, call: AttentionCall) -> DecoderLayer | None:
    """The layer's weights made ready; None where a weight has no product here or a shape is not for the kernels."""
    attention, mlp = layer.self_attn, layer.mlp
    linear = *(getattr(attention, name) for name in _PROJECTIONS), mlp.gate_proj, mlp.up_proj, mlp.down_proj
    products = [make_product(part.weight, part.bias) for part in linear]
    if None in products or call.sinks is not None:
        return None
    query, key, value, out, gate, up, down = cast("list[Product]", products)
    query_norm, key_norm = (None if part is None else _norm_of(part, norms) for part in _head_norms(attention))
    whole = DecoderLayer(
        _norm_of(layer.input_layernorm, norms),
        Attention(
            query, key, value, out, query_norm, key_norm, attention.head_dim, call.scaling, call.window, call.softcap
        ),
        _norm_of(layer.post_attention_layernorm, norms),
        GatedProduct(gate, up, activation),
        down,
    )
    return whole if whole.can_run() else None


def _norm_of(module: Any, norms: Norms) -> LayerNorm:
    epsilon, offset = norms[module]
    return LayerNorm(array_of(module.weight.detach()), offset, getattr(module, epsilon))


def whole_forward(
    whole: DecoderLayer, otherwise: Callable[..., Tensor], hidden_states: Tensor, **kwargs: Any
) -> Tensor:
    """A layer's forward: within a pack by `whole`, else, or where more is asked of it, as before."""
    state = current_pack()
    rotary = kwargs.get("position_embeddings")
    if state is None or rotary is None or not _is_usual(whole, state, hidden_states, rotary, kwargs):
        return otherwise(hidden_states, **kwargs)
    if state.place.stop.is_set():
        raise PackStoppedError("the pack was given up")
    cos, sin = rotary
    keep = state.keep if state.kept else None
    # The next hidden states are written over the last, which nothing else reads: the layer before made them for this.
    whole.run(hidden_states[0], cos[0], sin[0], state.memory_of(whole, hidden_states.dtype), state.cached_layer(), keep)
    state.layers += 1
    return hidden_states


def _is_usual(whole: DecoderLayer, state: PackState, x: Tensor, rotary: Any, kwargs: Mapping[str, Any]) -> bool:
    if any(value is not None for name, value in kwargs.items() if name not in _WITHOUT_EFFECT):
        return False
    table = 1, x.shape[1], whole.attention.head_size
    return (
        state.backend in ("auto", "cpu")
        and x.ndim == 3
        and x.shape[0] == 1
        and x.is_contiguous()
        and not x.requires_grad
        and x.dtype == whole.down.weight.dtype
        and isinstance(rotary, tuple)
        and all(part.dtype == x.dtype and part.shape == table for part in rotary)
    )
