"""An attention module's own forward, run with stand-ins for its products and norms.

Products give numbers that say which column they are, and tables of cosines and sines are ones and zeros, so that
queries, keys and values show what they are made of. With random numbers they then show how they are turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from instsel.layers.fused_modules import random_like
from instsel.layers.fused_norms import KnownNorm
from instsel.layers.layer_flow import HIDDEN_ROWS, ChildCall
from instsel.layers.stand_ins import StandIn, replaced

TOKENS = 3
_RECORDER = "instsel_recorder"
_FAR = 1 << 20  # a position at which whatever depends on positions, but by the tables, is seen


@dataclass
class AttentionTrace:
    """What went through the parts of one run: per token, [heads, d] or a flat row."""

    heads: list[Tensor] = field(default_factory=list)  # queries, keys and values [T, heads, d]
    attended: Tensor | None = None
    made: dict[str, Tensor] = field(default_factory=dict)  # by products that were given the module's rows
    out: str = ""
    normed: dict[str, Tensor] = field(default_factory=dict)  # what norms were given
    norm_sizes: dict[str, int] = field(default_factory=dict)


_traces: list[AttentionTrace] = []  # of the run that is under way, in the thread that checks a model


class TracedAttention:
    """An attention module with a call of it: its products and norms by name, and runs with stand-ins for them."""

    def __init__(self, attention: Any, call: ChildCall, norms: Mapping[nn.Module, KnownNorm]) -> None:
        self.attention, self.call = attention, call
        modules = dict(attention.named_modules())
        self.products = {name: part for name, part in modules.items() if type(part) is nn.Linear}
        self.norms = {name: norms[part] for name, part in modules.items() if part in norms}
        self.depth = next(iter(self.products.values())).in_features
        tables = call.named.get("position_embeddings")
        self.columns, self.tables = 0, torch.float32  # of a table, and its dtype
        if isinstance(tables, tuple) and len(tables) == 2 and tables[0].ndim == 3:
            self.columns, self.tables = tables[0].shape[-1], tables[0].dtype
        firsts = torch.tensor([0, *(part.out_features for part in self.products.values())]).cumsum(0).tolist()
        self.firsts = dict(zip(self.products, firsts, strict=False))

    def run(self, *, numbered: bool, dtype: torch.dtype = torch.float32) -> AttentionTrace:
        """The module's own forward with stand-ins for its products and norms."""
        seen = AttentionTrace()
        like = torch.empty(0, dtype=dtype)
        hidden = random_like(TOKENS, self.depth, like=like)
        size = 1, TOKENS, self.columns
        tables = torch.ones(size, dtype=torch.float32), torch.zeros(size, dtype=torch.float32)
        if not numbered:
            drawn = self.drawn_tables(dtype)
            tables = drawn[0][None], drawn[1][None]

        def product(name: str) -> Callable[[Tensor], Tensor]:
            outputs, first = self.products[name].out_features, self.firsts[name]

            def answer(x: Tensor) -> Tensor:
                shape = *x.shape[:-1], outputs
                if seen.attended is not None and torch.equal(x.reshape(TOKENS, -1), seen.attended):
                    seen.out = name
                elif not torch.equal(x.reshape(TOKENS, -1), hidden):
                    raise ValueError("a product of something else")
                made = random_like(TOKENS, outputs + first, like=like)[:, first:]
                if numbered:
                    made = torch.arange(first, first + outputs, dtype=torch.float32).expand(TOKENS, -1)
                seen.made[name] = made
                return made.reshape(shape).clone()

            return answer

        def norm(name: str) -> Callable[[Tensor], Tensor]:
            def answer(x: Tensor) -> Tensor:
                if name in seen.normed:
                    raise ValueError("a norm of several")
                in_order = x.transpose(1, 2) if x.ndim == 4 and x.shape[1] != TOKENS else x
                seen.normed[name], seen.norm_sizes[name] = in_order.reshape(TOKENS, -1), x.shape[-1]
                return x

            return answer

        stand_ins = {name: StandIn(product(name)) for name in self.products}
        stand_ins |= {name: StandIn(norm(name)) for name in self.norms}
        rows = hidden[None] if self.call.dimensions == 3 else hidden
        given = [rows if value is HIDDEN_ROWS else value for value in self.call.given]
        named = {name: self._argument(name, value, rows, tables) for name, value in self.call.named.items()}
        with replaced(self.attention, stand_ins), _recording(self.attention.config, seen):
            out = type(self.attention).forward(self.attention, *given, **named)
        out = out[0] if isinstance(out, tuple) else out
        if not torch.equal(out.reshape(TOKENS, -1), seen.made[seen.out]):
            raise ValueError("something after the last product")
        return seen

    def _argument(self, name: str, value: object, rows: Tensor, tables: tuple[Tensor, Tensor]) -> object:
        if value is HIDDEN_ROWS:
            return rows
        if name == "position_embeddings" and self.columns:
            return tables
        if isinstance(value, Tensor):
            if value.dtype.is_floating_point or value.numel() == 0:
                raise ValueError("something else that it computes with")
            return (torch.arange(TOKENS) * _FAR).expand(*value.shape[:-1], -1)
        return value

    def drawn_tables(self, dtype: torch.dtype) -> Tensor:
        """[2, T, r], in float32 for float32 rows."""
        kind = torch.float32 if dtype == torch.float32 else self.tables
        return random_like(2, TOKENS, self.columns, like=torch.empty(0, dtype=kind))


def _record(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *given: object, **named: object
) -> tuple[Tensor, None]:
    seen = _traces[-1]
    seen.heads = [x[0].transpose(0, 1).clone() for x in (query, key, value)]
    out = random_like(*query.shape, like=torch.empty(0, dtype=torch.float32)).transpose(1, 2).contiguous()
    seen.attended = out.reshape(TOKENS, -1)
    return out, None


AttentionInterface.register(_RECORDER, _record)


@contextmanager
def _recording(config: Any, seen: AttentionTrace) -> Iterator[None]:
    before = config._attn_implementation_internal
    config._attn_implementation_internal = _RECORDER
    _traces.append(seen)
    try:
        yield
    finally:
        _traces.pop()
        config._attn_implementation_internal = before
