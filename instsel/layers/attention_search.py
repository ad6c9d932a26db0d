"""What an attention module computes between the rows that it is given and those that it gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.layer_elementwise import rotate_heads
from instsel.kernels.rotary_tables import Rotary
from instsel.layers.attention_parts import AttentionParts, ProjectionParts
from instsel.layers.attention_trace import TOKENS, AttentionTrace, TracedAttention
from instsel.layers.fused_modules import is_usable
from instsel.layers.fused_norms import KnownNorm
from instsel.layers.layer_flow import ChildCall
from instsel.layers.weight_columns import Columns


def find_attention(
    attention: nn.Module, call: ChildCall, asked: AttentionOptions, norms: Mapping[nn.Module, KnownNorm], backend: str
) -> AttentionParts | None:
    """None for an attention module with something more, or whose weights the kernels do not take."""
    try:
        return _Search(TracedAttention(attention, call, norms), backend).parts(asked)
    except Exception:  # whatever a module of another kind raises
        return None


class _Search:
    def __init__(self, traced: TracedAttention, backend: str) -> None:
        self.traced, self.backend = traced, backend
        self.products, self.norms, self.firsts = traced.products, traced.norms, traced.firsts

    def parts(self, asked: AttentionOptions) -> AttentionParts | None:
        if not all(is_usable(part.weight, self.backend) for part in self.products.values()):
            return None
        where = self.traced.run(numbered=True)
        query, key, value = (self._columns(heads) for heads in where.heads)
        used = {query.product, key.product, value.product, where.out}
        if used != set(self.products) or _holds_others(self.traced, asked):
            return None
        how = self.traced.run(numbered=False)
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
        own = self.traced.attention._parameters
        sinks = None if asked.sinks is None else next(name for name, p in own.items() if p is asked.sinks)
        out = Columns(where.out, 0, self.products[where.out].out_features)
        parts = ProjectionParts(query, *norms[0]), ProjectionParts(key, *norms[1])
        return AttentionParts(*parts, value, out, size, rotary, wide, asked, sinks)

    def _columns(self, heads: Tensor) -> Columns:
        """Of which columns queries, keys or values are made; ValueError where these are not runs of the same length."""
        numbers = heads.long()
        first, stride = int(numbers[0, 0, 0]), int(numbers[0, -1, 0] - numbers[0, 0, 0]) // max(heads.shape[1] - 1, 1)
        name = next(n for n, part in self.products.items() if 0 <= first - self.firsts[n] < part.out_features)
        columns = Columns(name, first - self.firsts[name], heads[0].numel())
        if stride not in (0, heads.shape[2]):
            columns = columns._replace(heads=heads.shape[1], stride=stride)
        made = torch.arange(self.products[name].out_features)[columns.places] + self.firsts[name]
        if not torch.equal(numbers.flatten(1), made.expand(TOKENS, -1)):
            raise ValueError("columns in another order")
        return columns

    def _norm(
        self, columns: Columns, where: AttentionTrace, how: AttentionTrace, raw: Tensor, size: int
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

    def _rotary(self, pairs: list[tuple[Tensor, Tensor]]) -> Rotary | None:
        if all(torch.equal(raw, turned) for raw, turned in pairs):
            return None
        drawn = self.traced.drawn_tables(torch.float32)
        for rotary in _rotaries(self.traced.columns):
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
        how = self.traced.run(numbered=False, dtype=dtype)
        drawn = self.traced.drawn_tables(dtype)
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


def _holds_others(traced: TracedAttention, asked: AttentionOptions) -> bool:
    """Whether there are tensors beside those of the known parts, which may do nothing until they are trained."""
    known = {id(traced.attention.get_submodule(name)) for name in (*traced.products, *traced.norms)}
    return any(
        tensor is not None and tensor is not asked.sinks
        for module in traced.attention.modules()
        if id(module) not in known
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )
