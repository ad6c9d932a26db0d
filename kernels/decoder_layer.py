"""A decoder layer on the CPU from one hidden state to the next, with as little as possible between its kernels.

What stands between two products in a model's own code, calls through modules and views of tensors, is little work but
much code: after the milliseconds of a product it is no longer in the processor's caches. Here all views are made once
for a pack, and each layer is a dozen calls one after another: a short list of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .layer_attention import Attention, Keep, KeysValues, Pass
from .layer_memory import LayerMemory, LayerShape
from .layer_norms import Norm
from .layer_products import FeedForward, Rows
from .native_arrays import Machine

HIDDEN = 0  # the place of the hidden states; those behind it hold rows of as many columns on their way


class Call(NamedTuple):
    """Something of the model's own: rows [T, H] to rows [T, H]."""

    run: Callable[[Tensor], Tensor]


Part = Norm | Attention | FeedForward | Call


class Step(NamedTuple):
    """What one part of a layer makes of the rows at `source`, written to `target`, or added to what stands there."""

    part: Part
    source: int
    target: int
    add: bool = False


class Sum(NamedTuple):
    """`hidden = scale * hidden + factor * source`."""

    source: int
    factor: float = 1.0
    scale: float = 1.0

    def forward(self, rows: Sequence[Rows]) -> None:
        hidden, source = rows[HIDDEN].tensor, rows[self.source].tensor
        if self.scale == 0.0:
            hidden.copy_(source)
            if self.factor != 1.0:
                hidden.mul_(self.factor)
            return
        if self.scale != 1.0:
            hidden.mul_(self.scale)
        if self.factor != 0.0:
            hidden.add_(source, alpha=self.factor)


@dataclass(frozen=True)
class DecoderLayer:
    """Steps, in the order in which they run, from hidden states of `columns` numbers to the next ones."""

    steps: tuple[Step | Sum, ...]
    columns: int
    dtype: torch.dtype

    @cached_property
    def attention(self) -> Attention | None:
        """Its attention, of which it has one at most."""
        return next((part for part in self._parts if isinstance(part, Attention)), None)

    @cached_property
    def _parts(self) -> list[Part]:
        return [step.part for step in self.steps if isinstance(step, Step)]

    @cached_property
    def only_kernels(self) -> bool:
        """Whether nothing of the model's own is called."""
        return not any(isinstance(part, Call) for part in self._parts)

    @cached_property
    def shape(self) -> LayerShape:
        """Of the memory that it needs."""
        attention = self.attention
        feed_forwards = [part for part in self._parts if isinstance(part, FeedForward)]
        gate = max((part.depth for part in feed_forwards), default=0)
        gates = max((part.matrices for part in feed_forwards), default=0)
        slots = max((max(step.source, step.target) for step in self.steps if isinstance(step, Step)), default=0)
        queries, keys = (attention.query.product.outputs, attention.key.product.outputs) if attention else (0, 0)
        return LayerShape(self.columns, queries, keys, gate, attention.head_size if attention else 1, gates, slots)

    def forward(
        self,
        hidden: Tensor,
        tables: tuple[Tensor, Tensor] | None,
        memory: LayerMemory,
        cached: Callable[[], Sequence[KeysValues]] = tuple,
        keep: Keep | None = None,
    ) -> None:
        """Hidden states [T, H] to the next ones, in place.

        tables  cosines and sines [T, r] of the rotary embedding
        memory  made for a layer of this `shape` and the pack's segments
        cached  gives the keys and values that stand before the pack's own, asked once
        keep    called with the pack's own keys and values [T, kv_heads, d] in memory that the next layer overwrites
        """
        machine = Machine.now()
        rows = Rows.of(hidden), *memory.slots
        for step in self.steps:
            if isinstance(step, Sum):
                step.forward(rows)
                continue
            part, source, target, add = step
            x, out = rows[source], rows[target]
            if isinstance(part, Norm):
                (part.add_to if add else part.into)(x.array, out.array, machine)
            elif isinstance(part, Call):
                out.tensor.copy_(part.run(x.tensor))
            else:
                if isinstance(part, Attention):
                    last, inner = part.out, part.into(x, Pass(memory, tables, cached, keep, machine))
                else:
                    last, inner = part.down, part.into(x, memory.gated, machine)
                if add:
                    last.add_to(inner, out, machine)
                else:
                    last.into(inner, out, machine)
