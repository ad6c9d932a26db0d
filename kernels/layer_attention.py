"""Attention of a decoder layer on the CPU, from the rows that it is given to its output projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .attention_kinds import AttentionOptions
from .cpu_tree_attention import LARGEST_HEAD, attend
from .layer_memory import LayerMemory
from .layer_norms import Norm
from .layer_products import Product, Rows
from .native_arrays import Machine
from .rotary_tables import HALVES, Rotary

KeysValues = tuple[Tensor, Tensor]  # [tokens, kv_heads, d] each
Keep = Callable[[Tensor, Tensor], None]
Turn = tuple[np.ndarray, np.ndarray, bool]  # cosines, sines, and whether they turn neighbours


class Projection(NamedTuple):
    """`product(x)`, and a norm of each head, or of all of them as one, before the heads are turned or after."""

    product: Product
    norm: Norm | None = None
    by_head: bool = True
    norm_last: bool = False


class Pass(NamedTuple):
    """What the attention of a layer meets in one pack."""

    memory: LayerMemory
    tables: tuple[Tensor, Tensor] | None
    cached: Callable[[], Sequence[KeysValues]]
    keep: Keep | None
    machine: Machine


@dataclass(frozen=True)
class Attention:
    """`out(attention(query(x), key(x), value(x)))`, queries and keys turned by `rotary`."""

    query: Projection
    key: Projection
    value: Product
    out: Product
    head_size: int
    options: AttentionOptions
    rotary: Rotary | None = HALVES

    def can_run(self) -> bool:
        """Whether the kernels take its shape."""
        size, queries, keys = self.head_size, self.query.product.outputs, self.key.product.outputs
        if size > LARGEST_HEAD or self.value.outputs != keys or self.out.depth != queries:
            return False
        return queries % size == 0 and keys % size == 0 and (queries // size) % (keys // size) == 0

    def into(self, x: Rows, given: Pass) -> Rows:
        """What the heads attend to, of rows x [T, H]: the rows that `out` multiplies."""
        memory, machine = given.memory, given.machine
        turn: Turn | None = None
        if self.rotary is not None:
            assert given.tables is not None
            cos, sin = memory.tables(self.rotary, given.tables)
            turn = cos, sin, self.rotary.interleaved
        query = self._project(self.query, x, memory.query, memory.attended, turn, memory, machine)
        self._project(self.key, x, memory.keys.own, memory.raw_keys, turn, memory, machine)
        self.value.into(x, memory.values.own, machine)
        if given.keep is not None:
            parts = memory.keys, memory.values
            given.keep(*(part.own.tensor.unflatten(1, (-1, self.head_size)) for part in parts))
        if cached := given.cached():
            torch.cat([key.flatten(1) for key, _ in cached], out=memory.keys.before)
            torch.cat([value.flatten(1) for _, value in cached], out=memory.values.before)
        attend(
            memory.heads(query),
            memory.heads(memory.keys.all),
            memory.heads(memory.values.all),
            memory.heads(memory.attended),
            memory.segments,
            self.options,
            machine,
        )
        return memory.attended

    def _project(
        self,
        projection: Projection,
        x: Rows,
        out: Rows,
        raw: Rows,
        turn: Turn | None,
        memory: LayerMemory,
        machine: Machine,
    ) -> Rows:
        """The projection's heads, turned, in `out` or where a library has put them; keys always in `out`."""
        from . import _native

        def rotate(rows: Rows) -> None:
            if turn is not None:
                _native.rotate_in_place(memory.heads(rows), *turn, *machine)

        product, norm, by_head, norm_last = projection
        if norm is None:
            # Keys must stand behind those that are cached, queries anywhere.
            out = product.anywhere(x, out, machine) if out is memory.query else product.into(x, out, machine)
            rotate(out)
            return out
        raw = product.anywhere(x, raw, machine)
        if norm_last:
            rotate(raw)
        parts = (memory.by_head(raw), memory.by_head(out)) if by_head else (raw.array, out.array)
        norm.into(*parts, machine)
        if not norm_last:
            rotate(out)
        return out
