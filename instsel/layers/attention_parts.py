"""An attention module by the names of its parts: what its queries, keys, values and result are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.gpu_layer import GpuAttention, GpuProjection
from instsel.kernels.layer_attention import Attention, Projection
from instsel.kernels.rotary_tables import Rotary
from instsel.layers.fused_norms import KnownNorm
from instsel.layers.weight_columns import Columns, gpu_product


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
    call: AttentionOptions
    sinks: str | None

    def on_gpu(self, module: nn.Module) -> GpuAttention:
        """With the weights of a module, on a GPU."""
        names = list(dict.fromkeys(c.product for c in (self.query.columns, self.key.columns, self.value)))
        return GpuAttention(
            tuple(gpu_product(module, name) for name in names),
            self.query.on_gpu(module, names),
            self.key.on_gpu(module, names),
            self.value.on_gpu(names),
            gpu_product(module, self.out.product),
            self.head_size,
            self._options(module),
            self.rotary,
            self.wide,
        )

    def of(self, module: nn.Module) -> Attention:
        """With the weights of a module."""
        return Attention(
            self.query.of(module),
            self.key.of(module),
            self.value.of(module),
            self.out.of(module),
            self.head_size,
            self._options(module),
            self.rotary,
        )

    def _options(self, module: nn.Module) -> AttentionOptions:
        if self.sinks is None:
            return self.call
        return self.call._replace(sinks=module.get_parameter(self.sinks).detach().float().contiguous())
