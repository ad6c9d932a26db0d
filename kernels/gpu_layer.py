"""A decoder layer on a GPU from one hidden state to the next: torch's products, and one kernel between two of them.

A layer's last sum is left to whatever reads its rows next, whose norm makes it in the same pass. Every number is
rounded where the model's own modules round it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from .attention_kinds import AttentionOptions
from .decoder_layer import HIDDEN, Call, Sum
from .float8_products import HasRows, product_rows
from .layer_elementwise import GATES, add_norm, gate_rows, rotate_heads
from .rotary_tables import Rotary
from .tree_attention import tree_attention
from .tree_segments import TreeSegments

KERNELS = "triton"  # the backend of what stands between two products


class GpuNorm(NamedTuple):
    """A norm with its weights, as `add_norm` describes it."""

    weight: Tensor
    epsilon: float
    offset: float
    bias: Tensor | None
    centred: bool
    rounds_first: bool

    def rows(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """The norm of rows [T, H], after `x += added`, or of heads [T, heads, d]."""
        return add_norm(
            x,
            self.weight,
            self.epsilon,
            added=added,
            bias=self.bias,
            weight_offset=self.offset,
            centred=self.centred,
            rounds_first=self.rounds_first,
            backend=KERNELS,
        )


class GpuProduct(NamedTuple):
    """`x weight^T + bias`, by the call that the model's own module makes."""

    weight: Tensor
    bias: Tensor | None = None

    def rows(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias)


class GpuColumns(NamedTuple):
    """Columns of what one of a part's products gives: runs of `size / heads`, `stride` columns apart."""

    product: int
    first: int
    size: int
    heads: int = 1
    stride: int = 0

    def of(self, made: Sequence[Tensor]) -> Tensor:
        """A view [T, size], or [T, heads, d] of runs that are apart."""
        rows = made[self.product]
        if self.heads == 1:
            return rows[:, self.first : self.first + self.size]
        shape = len(rows), self.heads, self.size // self.heads
        return rows.as_strided(shape, (rows.stride(0), self.stride, 1), rows.storage_offset() + self.first)


class GpuProjection(NamedTuple):
    """Queries or keys: a product's columns, and a norm of each head, or of all as one, before or after the turn."""

    columns: GpuColumns
    norm: GpuNorm | None
    by_head: bool
    norm_last: bool


class GpuPass(NamedTuple):
    """What a layer meets in one pack."""

    segments: TreeSegments
    tables: tuple[Tensor, Tensor] | None  # [T, r] of the layer's rotary embedding
    cached: Callable[[], Sequence[tuple[Tensor, Tensor]]]
    keep: Callable[[Tensor, Tensor], None] | None
    backend: str  # of attention
    find_again: bool  # what of attention's results is not finite


@dataclass(frozen=True)
class GpuAttention:
    """`out(attention(query(x), key(x), value(x)))`, queries and keys turned by `rotary`.

    wide  the tables are float32, and what is turned is rounded but once
    """

    products: tuple[HasRows, ...]
    query: GpuProjection
    key: GpuProjection
    value: GpuColumns
    out: HasRows
    head_size: int
    options: AttentionOptions
    rotary: Rotary | None
    wide: bool

    def rows(self, x: Tensor, given: GpuPass) -> Tensor:
        """Of rows [T, H]."""
        made = product_rows(self.products, x)
        query, key = (self._project(part, made) for part in (self.query, self.key))
        if self.rotary is not None:
            assert given.tables is not None
            rotate_heads(query, *given.tables, more=key, interleaved=self.rotary.interleaved, backend=KERNELS)
        query, key = (
            self._normed(part, heads) if part.norm_last else heads
            for part, heads in ((self.query, query), (self.key, key))
        )
        value = self._heads(self.value.of(made))
        if given.keep is not None:
            given.keep(key, value)
        if cached := given.cached():
            key = torch.cat([*(keys for keys, _ in cached), key])
            value = torch.cat([*(values for _, values in cached), value])
        attended = tree_attention(
            query,
            key,
            value,
            given.segments,
            **self.options._asdict(),
            backend=given.backend,
            find_again=given.find_again,
        )
        return self.out.rows(attended.flatten(1))

    def _heads(self, x: Tensor) -> Tensor:
        return x if x.ndim == 3 else x.unflatten(1, (-1, self.head_size))

    def _project(self, part: GpuProjection, made: Sequence[Tensor]) -> Tensor:
        x = part.columns.of(made)
        return self._heads(x) if part.norm is None or part.norm_last else self._normed(part, x)

    def _normed(self, part: GpuProjection, x: Tensor) -> Tensor:
        if part.norm is None:
            return x
        return self._heads(part.norm.rows(self._heads(x) if part.by_head else x.flatten(1)))


@dataclass(frozen=True)
class GpuFeedForward:
    """`down(activation(gate(x)) * up(x))`, or without `up`; the activation is one of `GATES` or the model's own."""

    products: tuple[HasRows, ...]
    gate: GpuColumns
    up: GpuColumns | None
    activation: str | Callable[[Tensor], Tensor]
    down: HasRows

    def rows(self, x: Tensor) -> Tensor:
        """Of rows [T, H]."""
        made = product_rows(self.products, x)
        gate = self.gate.of(made)
        if isinstance(self.activation, str):
            assert self.up is not None and self.activation in GATES
            return self.down.rows(gate_rows(gate, self.up.of(made), self.activation, backend=KERNELS))
        active = self.activation(gate)
        return self.down.rows(active if self.up is None else active * self.up.of(made))


GpuPart = GpuNorm | GpuAttention | GpuFeedForward | Call


class GpuStep(NamedTuple):
    """What one part makes of the rows at `source`; a norm may make a sum of the hidden states first."""

    part: GpuPart
    source: int
    target: int
    sum: Sum | None = None


@dataclass(frozen=True)
class GpuLayer:
    """Steps, in the order in which they run; `rest` is the sum that its result still lacks, if any."""

    steps: tuple[GpuStep | Sum, ...]
    rest: Sum | None
    dtype: torch.dtype

    @classmethod
    def of(cls, steps: Sequence[GpuStep | Sum], dtype: torch.dtype) -> GpuLayer:
        """A sum becomes part of the norm after it, or is left to the next layer."""
        found: list[GpuStep | Sum] = []
        for step in steps:
            before = found[-1] if found else None
            if isinstance(step, GpuStep) and _takes(step) and isinstance(before, Sum) and _is_added(before):
                found[-1] = step._replace(sum=before)
            else:
                found.append(step)
        last = found[-1]
        rest = last if isinstance(last, Sum) and _is_added(last) else None
        return cls(tuple(found if rest is None else found[:-1]), rest, dtype)

    @cached_property
    def attention(self) -> GpuAttention | None:
        """Its attention, of which it has one at most."""
        parts = (step.part for step in self.steps if isinstance(step, GpuStep))
        return next((part for part in parts if isinstance(part, GpuAttention)), None)

    def forward(self, hidden: Tensor, added: Tensor | None, given: GpuPass) -> Tensor | None:
        """Hidden states [T, H] to the next ones, in place; gives what is still to be added to these.

        added  what the layer before has left to be added
        """
        rows = {HIDDEN: hidden}
        first = self.steps[0]
        if added is not None and not (isinstance(first, GpuStep) and _takes(first)):
            hidden.add_(added)
            added = None
        for step in self.steps:
            if isinstance(step, Sum):
                _add(step, rows)
                continue
            part, x = step.part, rows[step.source]
            if isinstance(part, GpuNorm):
                made = part.rows(x, added if step.sum is None else _scaled(step.sum, rows))
                added = None
            elif isinstance(part, GpuAttention):
                made = part.rows(x, given)
            else:
                made = part.run(x) if isinstance(part, Call) else part.rows(x)
            rows[step.target] = made
        return None if self.rest is None else _scaled(self.rest, rows)


def _is_added(step: Sum) -> bool:
    """Whether it leaves the hidden states as they are, but for what is added."""
    return step.scale == 1.0 and step.factor != 0.0


def _takes(step: GpuStep) -> bool:
    """Whether a layer's first step adds to the hidden states what it is given."""
    return isinstance(step.part, GpuNorm) and step.source == HIDDEN and step.sum is None


def _scaled(step: Sum, rows: dict[int, Tensor]) -> Tensor:
    """What a sum adds, rounded by itself as the models' code does."""
    source = rows[step.source]
    return source if step.factor == 1.0 else source * step.factor


def _add(step: Sum, rows: dict[int, Tensor]) -> None:
    hidden = rows[HIDDEN]
    if step.scale == 0.0:
        hidden.copy_(_scaled(step, rows))
        return
    if step.scale != 1.0:
        hidden.mul_(step.scale)
    if step.factor != 0.0:
        hidden.add_(_scaled(step, rows))
