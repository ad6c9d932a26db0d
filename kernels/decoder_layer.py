"""A decoder layer on the CPU from one hidden state to the next, with as little as possible between its kernels.

What stands between two products in a model's own code, calls through modules and views of tensors, is little work but
much code: after the milliseconds of a product it is no longer in the processor's caches. Here all views are made once
for a pack, and each layer is a dozen calls one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .cpu_tree_attention import LARGEST_HEAD, attend
from .layer_memory import LayerMemory, LayerShape
from .layer_products import GatedProduct, Product, Rows
from .native_arrays import Machine

KeysValues = tuple[Tensor, Tensor]  # [tokens, kv_heads, d] each
Keep = Callable[[Tensor, Tensor], None]


class Norm(NamedTuple):
    """`x / sqrt(mean(x^2) + epsilon) * (weight + offset)`."""

    weight: np.ndarray
    offset: float
    epsilon: float

    def into(self, x: np.ndarray, out: np.ndarray, machine: Machine) -> None:
        from . import _native

        _native.rms_norm(x, None, *self, out, *machine)


@dataclass(frozen=True)
class Attention:
    """`out(attention(rotate(norm(query(x))), rotate(norm(key(x))), value(x)))`; the two norms are of heads."""

    query: Product
    key: Product
    value: Product
    out: Product
    query_norm: Norm | None
    key_norm: Norm | None
    head_size: int
    scaling: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True)
class DecoderLayer:
    """`x += attention(attention_norm(x))`, then `x += down(gated(feed_forward_norm(x)))`."""

    attention_norm: Norm
    attention: Attention
    feed_forward_norm: Norm
    gated: GatedProduct
    down: Product

    @cached_property
    def shape(self) -> LayerShape:
        """Of the memory that it needs."""
        attention, gates = self.attention, self.gated.matrices
        columns = attention.query.depth, attention.query.outputs, attention.key.outputs, self.down.depth
        return LayerShape(*columns, attention.head_size, gates)

    def can_run(self) -> bool:
        """Whether the kernels take its shape."""
        attention, size = self.attention, self.attention.head_size
        if size > LARGEST_HEAD or size % 2 != 0 or attention.value.outputs != attention.key.outputs:
            return False
        return attention.query.outputs % size == 0 and attention.key.outputs % size == 0

    def run(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        memory: LayerMemory,
        cached: Sequence[KeysValues] = (),
        keep: Keep | None = None,
    ) -> None:
        """Hidden states [T, H] to the next ones, in place.

        cos, sin  [T, d], of the rotary embedding
        memory    made for a layer of this `shape` and the pack's segments
        cached    keys and values that stand before the pack's own
        keep      called with the pack's own keys and values [T, kv_heads, d] in memory that the next layer overwrites
        """
        machine, attention = Machine.now(), self.attention
        x = Rows.of(hidden)
        self.attention_norm.into(x.array, memory.normed.array, machine)
        attended = self._attend(cos, sin, memory, cached, keep, machine)
        attention.out.add_to(attended, x, machine)
        self.feed_forward_norm.into(x.array, memory.normed.array, machine)
        gated = self.gated.into(memory.normed, memory.gated, machine)
        self.down.add_to(gated, x, machine)

    def _attend(
        self,
        cos: Tensor,
        sin: Tensor,
        memory: LayerMemory,
        cached: Sequence[KeysValues],
        keep: Keep | None,
        machine: Machine,
    ) -> Rows:
        from . import _native

        attention, x = self.attention, memory.normed
        if attention.query_norm is None:
            query = attention.query.anywhere(x, memory.query, machine)
        else:
            query = memory.query
            # The norm reads what stands where the result of attention will be.
            raw = attention.query.anywhere(x, memory.attended, machine)
            attention.query_norm.into(memory.by_head(raw), memory.by_head(query), machine)
        if attention.key_norm is None:
            attention.key.into(x, memory.keys.own, machine)
        else:
            raw = attention.key.anywhere(x, memory.raw_keys, machine)
            attention.key_norm.into(memory.by_head(raw), memory.by_head(memory.keys.own), machine)
        attention.value.into(x, memory.values.own, machine)
        cosines, sines = memory.rotary(cos, sin)
        queries, keys = memory.heads(query), memory.heads(memory.keys.own)
        _native.rotate_in_place(queries, cosines, sines, *machine)
        _native.rotate_in_place(keys, cosines, sines, *machine)
        if keep is not None:
            keep(*(part.own.tensor.unflatten(1, (-1, attention.head_size)) for part in (memory.keys, memory.values)))
        if cached:
            torch.cat([key.flatten(1) for key, _ in cached], out=memory.keys.before)
            torch.cat([value.flatten(1) for _, value in cached], out=memory.values.before)
        attend(
            queries,
            memory.heads(memory.keys.all),
            memory.heads(memory.values.all),
            memory.heads(memory.attended),
            memory.segments,
            attention.scaling,
            attention.window,
            attention.softcap,
            None,
            machine,
        )
        return memory.attended
