"""A decoder layer's formulas in float64, with random weights and inputs, and the same layer made of the kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from instsel.kernels import TreeSegments
from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.decoder_layer import HIDDEN, DecoderLayer, Step
from instsel.kernels.layer_attention import Attention, Projection
from instsel.kernels.layer_memory import LayerMemory, Storage
from instsel.kernels.layer_norms import Norm
from instsel.kernels.layer_products import FeedForward, make_product

HIDDEN_SIZE, HEADS, KEY_HEADS, SIZE, GATE = 96, 4, 2, 16, 160
CACHED = 3
# Three cached tokens; a root of 4 behind them, two children of it and a node that continues the cached tokens alone.
SEGMENTS = TreeSegments.from_lists([0, 4, 7, 8, 13], [[(0, 3)], [(0, 3), (3, 7)], [(0, 3), (3, 7)], [(0, 3)]])
TOKENS = 13


@dataclass
class Weights:
    """Tensors of one layer, and what it asks of attention."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    attention_norm: Tensor
    feed_forward_norm: Tensor
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    query_bias: Tensor | None = None
    value_bias: Tensor | None = None
    offset: float = 0.0
    window: int | None = None
    softcap: float | None = None
    activation: str = "silu"


def draw(dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(3)

    def one(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return (mean + scale * torch.randn(*shape, generator=generator)).to(dtype)

    return one


def weights(dtype: torch.dtype, kind: str) -> Weights:
    one = draw(dtype)
    queries, keys = HEADS * SIZE, KEY_HEADS * SIZE
    shapes = (
        (queries, HIDDEN_SIZE),
        (keys, HIDDEN_SIZE),
        (keys, HIDDEN_SIZE),
        (HIDDEN_SIZE, queries),
        (GATE, HIDDEN_SIZE),
        (GATE, HIDDEN_SIZE),
    )
    made = Weights(
        *(one(*shape, scale=1.5 * shape[1] ** -0.5) for shape in shapes),
        one(HIDDEN_SIZE, GATE, scale=GATE**-0.5),
        one(HIDDEN_SIZE, scale=0.3, mean=1.0),
        one(HIDDEN_SIZE, scale=0.3, mean=1.0),
    )
    if kind == "biases":
        return replace(made, query_bias=one(queries), value_bias=one(keys))
    if kind == "norms of heads":
        return replace(made, query_norm=one(SIZE, mean=1.0), key_norm=one(SIZE, mean=1.0))
    if kind == "window and cap":
        return replace(made, window=4, softcap=3.0, offset=1.0, activation="gelu_tanh")
    return made


def built(w: Weights) -> DecoderLayer:
    def norm(weight: Tensor) -> Norm:
        return Norm.of(weight, w.offset, 1e-5)

    query, key, value, out, gate, up, down = (
        make_product(weight, bias)
        for weight, bias in (
            (w.query, w.query_bias),
            (w.key, None),
            (w.value, w.value_bias),
            (w.out, None),
            (w.gate, None),
            (w.up, None),
            (w.down, None),
        )
    )
    assert query and key and value and out and gate and up and down
    head_norms = (None if weight is None else norm(weight) for weight in (w.query_norm, w.key_norm))
    query_of, key_of = (Projection(product, norm) for product, norm in zip((query, key), head_norms, strict=True))
    attention = Attention(query_of, key_of, value, out, SIZE, AttentionOptions(SIZE**-0.5, w.window, w.softcap))
    assert attention.can_run()
    steps = (
        Step(norm(w.attention_norm), HIDDEN, 1),
        Step(attention, 1, HIDDEN, add=True),
        Step(norm(w.feed_forward_norm), HIDDEN, 1),
        Step(FeedForward(gate, up, w.activation, down), 1, HIDDEN, add=True),
    )
    return DecoderLayer(steps, HIDDEN_SIZE, w.query.dtype)


def exact(w: Weights, x: Tensor, cos: Tensor, sin: Tensor, cached: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Next hidden states, and the keys and values, in float64."""

    def norm(values: Tensor, weight: Tensor | None) -> Tensor:
        if weight is None:
            return values
        return values * (values.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight.double() + w.offset)

    def project(weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = normed @ weight.double().T + (0.0 if bias is None else bias.double())
        return rows.unflatten(1, (-1, SIZE))

    def rotate(heads: Tensor) -> Tensor:
        turned = torch.cat([-heads[..., SIZE // 2 :], heads[..., : SIZE // 2]], -1)
        return heads * cos.double()[:, None] + turned * sin.double()[:, None]

    x = x.double()
    normed = norm(x, w.attention_norm)
    queries = rotate(norm(project(w.query, w.query_bias), w.query_norm))
    keys = rotate(norm(project(w.key, None), w.key_norm))
    values = project(w.value, w.value_bias)
    all_keys, all_values = (
        torch.cat([before.double(), own]) for before, own in zip(cached, (keys, values), strict=True)
    )
    attended = torch.empty(TOKENS, HEADS, SIZE, dtype=torch.float64)
    for node in range(SEGMENTS.num_nodes):
        first, last = SEGMENTS.query_offsets[node : node + 2].tolist()
        path = SEGMENTS.key_indices(node, CACHED)
        position = torch.arange(len(path) - (last - first), len(path))[:, None] - torch.arange(len(path))
        seen = (position >= 0) & (position < (w.window or 10**9))
        k, v = (part[path].repeat_interleave(HEADS // KEY_HEADS, dim=1) for part in (all_keys, all_values))
        scores = torch.einsum("qhd,khd->hqk", queries[first:last], k) * SIZE**-0.5
        scores = scores if w.softcap is None else w.softcap * torch.tanh(scores / w.softcap)
        share = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        attended[first:last] = torch.einsum("hqk,khd->qhd", share, v)
    x = x + attended.flatten(1) @ w.out.double().T
    normed = norm(x, w.feed_forward_norm)
    gate = normed @ w.gate.double().T
    silu = w.activation == "silu"
    gate = torch.nn.functional.silu(gate) if silu else torch.nn.functional.gelu(gate, approximate="tanh")
    return x + (gate * (normed @ w.up.double().T)) @ w.down.double().T, keys, values


@dataclass
class Problem:
    """Inputs of one layer."""

    x: Tensor
    cos: Tensor
    sin: Tensor
    cached: tuple[Tensor, Tensor]

    @classmethod
    def drawn(cls, dtype: torch.dtype) -> Problem:
        one = draw(dtype)
        angle = 3 * one(TOKENS, SIZE).float()
        before = one(CACHED, KEY_HEADS, SIZE), one(CACHED, KEY_HEADS, SIZE)
        return cls(one(TOKENS, HIDDEN_SIZE), angle.cos().to(dtype), angle.sin().to(dtype), before)

    def run(self, layer: DecoderLayer, memory: LayerMemory | None = None) -> tuple[Tensor, Tensor, Tensor]:
        x, kept = self.x.clone(), []
        memory = memory or LayerMemory(layer.shape, SEGMENTS, CACHED, x.dtype, Storage())
        # Cached keys and values come from two nodes.
        parts = [tuple(t[:1] for t in self.cached), tuple(t[1:] for t in self.cached)]
        layer.forward(x, (self.cos, self.sin), memory, lambda: parts, lambda k, v: kept.extend((k.clone(), v.clone())))  # type: ignore[arg-type,return-value]
        return x, kept[0], kept[1]


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).norm() / want.norm())
