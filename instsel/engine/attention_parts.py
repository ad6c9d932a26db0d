"""What an attention module computes between the rows that it is given and those that it gives.

Its products are replaced by numbers that say which column they are, and tables of cosines and sines by ones and zeros,
so that queries, keys and values show what they are made of. With random numbers they then show how they are turned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from instsel.engine.attention import AttentionCall
from instsel.engine.fused_modules import KnownNorm, is_usable, random_like
from instsel.engine.layer_flow import HIDDEN_ROWS, ChildCall
from instsel.engine.stand_ins import StandIn, replaced
from instsel.engine.weight_columns import Columns, gpu_product
from instsel.kernels.gpu_layer import GpuAttention, GpuProjection
from instsel.kernels.layer_attention import Attention, Projection
from instsel.kernels.layer_elementwise import rotate_heads
from instsel.kernels.native_arrays import contiguous_array
from instsel.kernels.rotary_tables import Rotary

_RECORDER = "instsel_recorder"
_TOKENS = 3
_FAR = 1 << 20  # a position at which whatever depends on positions, but by the tables, is seen


class ProjectionParts(NamedTuple):
    """What makes queries or keys; `norm` is of heads, or of all of them as one, before or after they are turned."""

    columns: Columns
    norm: str | None
    known: KnownNorm | None
    by_head: bool
    norm_last: bool

    def on_gpu(self, module: nn.Module, products: Sequence[str]) -> GpuProjection:
        """With the weights of a module, on a GPU."""
        norm = None if self.norm is None or self.known is None else self.known.on_gpu(module.get_submodule(self.norm))
        return GpuProjection(self.columns.on_gpu(products), norm, self.by_head, self.norm_last)

    def of(self, module: nn.Module) -> Projection:
        norm = None if self.norm is None or self.known is None else self.known.of(module.get_submodule(self.norm))
        return Projection(self.columns.of(module), norm, self.by_head, self.norm_last)


class AttentionParts(NamedTuple):
    """An attention module, by the names of its parts."""

    query: ProjectionParts
    key: ProjectionParts
    value: Columns
    out: Columns
    head_size: int
    rotary: Rotary | None
    wide: bool  # what is turned is rounded but once; on a CPU it always is
    call: AttentionCall
    sinks: str | None

    def on_gpu(self, module: nn.Module) -> GpuAttention:
        """With the weights of a module, on a GPU."""
        call = self.call
        names = list(dict.fromkeys(c.product for c in (self.query.columns, self.key.columns, self.value)))
        return GpuAttention(
            tuple(gpu_product(module, name) for name in names),
            self.query.on_gpu(module, names),
            self.key.on_gpu(module, names),
            self.value.on_gpu(names),
            gpu_product(module, self.out.product),
            self.head_size,
            call.scaling,
            call.window,
            call.softcap,
            None if self.sinks is None else module.get_parameter(self.sinks).detach(),
            self.rotary,
            self.wide,
        )

    def of(self, module: nn.Module) -> Attention:
        """With the weights of a module."""
        call = self.call
        sinks = None if self.sinks is None else contiguous_array(module.get_parameter(self.sinks).detach().float())
        return Attention(
            self.query.of(module),
            self.key.of(module),
            self.value.of(module),
            self.out.of(module),
            self.head_size,
            call.scaling,
            call.window,
            call.softcap,
            sinks,
            self.rotary,
        )


@dataclass
class _Seen:
    """What went through the parts of one run: per token, [heads, d] or a flat row."""

    heads: list[Tensor] = field(default_factory=list)  # queries, keys and values [T, heads, d]
    attended: Tensor | None = None
    made: dict[str, Tensor] = field(default_factory=dict)  # by products that were given the module's rows
    out: str = ""
    normed: dict[str, Tensor] = field(default_factory=dict)  # what norms were given
    norm_sizes: dict[str, int] = field(default_factory=dict)


_seen: list[_Seen] = []  # of the run that is under way, in the thread that checks a model


def find_attention(
    attention: Any, call: ChildCall, asked: AttentionCall, norms: Mapping[nn.Module, KnownNorm], backend: str
) -> AttentionParts | None:
    """None for an attention module with something more, or whose weights the kernels do not take."""
    try:
        return _Attention(attention, call, norms, backend).parts(asked)
    except Exception:  # whatever a module of another kind raises
        return None


class _Attention:
    def __init__(self, attention: Any, call: ChildCall, norms: Mapping[nn.Module, KnownNorm], backend: str) -> None:
        self.attention, self.call, self.backend = attention, call, backend
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

    def parts(self, asked: AttentionCall) -> AttentionParts | None:
        if not all(is_usable(part.weight, self.backend) for part in self.products.values()):
            return None
        where = self.run(numbered=True)
        query, key, value = (self._columns(heads) for heads in where.heads)
        used = {query.product, key.product, value.product, where.out}
        if used != set(self.products) or _holds_others(self.attention, self.products, self.norms, asked):
            return None
        how = self.run(numbered=False)
        raw = [how.made[c.product][:, c.places] for c in (query, key, value)]
        size = where.heads[0].shape[-1]
        columns = query, key, value
        norms = [self._norm(c, where, how, rows, size) for c, rows in zip(columns, raw, strict=True)]
        if norms[2][0] is not None or len({name for name, *_ in norms} - {None}) != len(self.norms):
            return None
        if not torch.equal(raw[2].reshape(how.heads[2].shape), how.heads[2]):
            return None
        pairs = [(rows.reshape(heads.shape), heads) for rows, heads in zip(raw[:2], how.heads[:2], strict=True)]
        rotary = self._rotary(pairs)
        wide = rotary is not None and self.backend == "triton" and self._rounds_once(rotary, columns[:2])
        own = self.attention._parameters
        sinks = None if asked.sinks is None else next(name for name, p in own.items() if p is asked.sinks)
        out = Columns(where.out, 0, self.products[where.out].out_features)
        parts = ProjectionParts(query, *norms[0]), ProjectionParts(key, *norms[1])
        return AttentionParts(*parts, value, out, size, rotary, wide, asked, sinks)

    def run(self, *, numbered: bool, dtype: torch.dtype = torch.float32) -> _Seen:
        """The module's own forward with stand-ins for its products and norms."""
        seen = _Seen()
        like = torch.empty(0, dtype=dtype)
        hidden = random_like(_TOKENS, self.depth, like=like)
        size = 1, _TOKENS, self.columns
        tables = torch.ones(size, dtype=torch.float32), torch.zeros(size, dtype=torch.float32)
        if not numbered:
            drawn = self._drawn_tables(dtype)
            tables = drawn[0][None], drawn[1][None]

        def product(name: str) -> Callable[..., Any]:
            outputs, first = self.products[name].out_features, self.firsts[name]

            def answer(x: Tensor) -> Tensor:
                shape = *x.shape[:-1], outputs
                if seen.attended is not None and torch.equal(x.reshape(_TOKENS, -1), seen.attended):
                    seen.out = name
                elif not torch.equal(x.reshape(_TOKENS, -1), hidden):
                    raise ValueError("a product of something else")
                made = random_like(_TOKENS, outputs + first, like=like)[:, first:]
                if numbered:
                    made = torch.arange(first, first + outputs, dtype=torch.float32).expand(_TOKENS, -1)
                seen.made[name] = made
                return made.reshape(shape).clone()

            return answer

        def norm(name: str) -> Callable[..., Any]:
            def answer(x: Tensor) -> Tensor:
                if name in seen.normed:
                    raise ValueError("a norm of several")
                in_order = x.transpose(1, 2) if x.ndim == 4 and x.shape[1] != _TOKENS else x
                seen.normed[name], seen.norm_sizes[name] = in_order.reshape(_TOKENS, -1), x.shape[-1]
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
        if not torch.equal(out.reshape(_TOKENS, -1), seen.made[seen.out]):
            raise ValueError("something after the last product")
        return seen

    def _argument(self, name: str, value: Any, rows: Tensor, tables: tuple[Tensor, Tensor]) -> Any:
        if value is HIDDEN_ROWS:
            return rows
        if name == "position_embeddings" and self.columns:
            return tables
        if isinstance(value, Tensor):
            if value.dtype.is_floating_point or value.numel() == 0:
                raise ValueError("something else that it computes with")
            return (torch.arange(_TOKENS) * _FAR).expand(*value.shape[:-1], -1)
        return value

    def _columns(self, heads: Tensor) -> Columns:
        """Of which columns queries, keys or values are made; ValueError where these are not runs of the same length."""
        numbers = heads.long()
        first, stride = int(numbers[0, 0, 0]), int(numbers[0, -1, 0] - numbers[0, 0, 0]) // max(heads.shape[1] - 1, 1)
        name = next(n for n, part in self.products.items() if 0 <= first - self.firsts[n] < part.out_features)
        columns = Columns(name, first - self.firsts[name], heads[0].numel())
        if stride not in (0, heads.shape[2]):
            columns = columns._replace(heads=heads.shape[1], stride=stride)
        made = torch.arange(self.products[name].out_features)[columns.places] + self.firsts[name]
        if not torch.equal(numbers.flatten(1), made.expand(_TOKENS, -1)):
            raise ValueError("columns in another order")
        return columns

    def _norm(
        self, columns: Columns, where: _Seen, how: _Seen, raw: Tensor, size: int
    ) -> tuple[str | None, KnownNorm | None, bool, bool]:
        """The norm of a projection's columns, whether it is of heads and whether it comes after they are turned."""
        begin = self.firsts[columns.product] + columns.first
        names = [name for name, given in where.normed.items() if given[0, 0] == begin]
        if not names:
            return None, None, True, False
        (name,) = names
        given, norm_size = where.normed[name], where.norm_sizes[name]
        if given.shape[1] != columns.size or norm_size not in (size, columns.size):
            raise ValueError("a norm of other parts")
        return name, self.norms[name], norm_size == size, not torch.equal(how.normed[name], raw)

    def _drawn_tables(self, dtype: torch.dtype) -> Tensor:
        """[2, T, r], in float32 for float32 rows."""
        kind = torch.float32 if dtype == torch.float32 else self.tables
        return random_like(2, _TOKENS, self.columns, like=torch.empty(0, dtype=kind))

    def _rotary(self, pairs: list[tuple[Tensor, Tensor]]) -> Rotary | None:
        if all(torch.equal(raw, turned) for raw, turned in pairs):
            return None
        drawn = self._drawn_tables(torch.float32)
        for rotary in _rotaries(self.columns):
            cos, sin = (rotary.table(table) for table in drawn)
            if cos.shape[1] > pairs[0][0].shape[-1]:
                continue
            own = [rotate_heads(raw.clone(), cos, sin, interleaved=rotary.interleaved) for raw, _ in pairs]
            if all(torch.allclose(one, turned, atol=1e-5) for one, (_, turned) in zip(own, pairs, strict=True)):
                return rotary
        raise ValueError("a rotary embedding of another kind")

    def _rounds_once(self, rotary: Rotary, columns: tuple[Columns, ...]) -> bool:
        """Whether heads are turned in float32 and rounded then; ValueError where they are rounded elsewhere."""
        dtype = next(iter(self.products.values())).weight.dtype
        if dtype == torch.float32:
            return False
        how = self.run(numbered=False, dtype=dtype)
        drawn = self._drawn_tables(dtype)
        for wide in (False, True):
            cos, sin = (rotary.table_in(torch.float32 if wide else dtype, table) for table in drawn)
            own = [
                rotate_heads(
                    how.made[c.product][:, c.places].reshape(heads.shape).clone(), cos, sin,
                    interleaved=rotary.interleaved,
                )
                for c, heads in zip(columns, how.heads, strict=False)
            ]  # fmt: skip
            if all(torch.equal(one, turned) for one, turned in zip(own, how.heads, strict=False)):
                return wide
        raise ValueError("a rotary embedding that is rounded elsewhere")


def _rotaries(columns: int) -> Iterator[Rotary]:
    for interleaved in (False, True):
        yield Rotary(interleaved)
        for order in ("halves", "pairs"):
            for used in (columns // 2, columns):
                yield Rotary(interleaved, order, used)


def _holds_others(
    attention: nn.Module, products: Mapping[str, Any], norms: Mapping[str, Any], asked: AttentionCall
) -> bool:
    """Whether there are tensors beside those of the known parts, which may do nothing until they are trained."""
    known = {id(attention.get_submodule(name)) for name in (*products, *norms)}
    return any(
        tensor is not None and tensor is not asked.sinks
        for module in attention.modules()
        if id(module) not in known
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )


def _record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *given: Any, **named: Any) -> Any:
    seen = _seen[-1]
    seen.heads = [x[0].transpose(0, 1).clone() for x in (query, key, value)]
    out = random_like(*query.shape, like=torch.empty(0, dtype=torch.float32)).transpose(1, 2).contiguous()
    seen.attended = out.reshape(_TOKENS, -1)
    return out, None


AttentionInterface.register(_RECORDER, _record)


@contextmanager
def _recording(config: Any, seen: _Seen) -> Iterator[None]:
    before = config._attn_implementation_internal
    config._attn_implementation_internal = _RECORDER
    _seen.append(seen)
    try:
        yield
    finally:
        _seen.pop()
        config._attn_implementation_internal = before
