"""Some of a product's columns as a product of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from instsel.kernels.float8_products import Float8Product, HasRows
from instsel.kernels.gpu_layer import GpuColumns, GpuProduct
from instsel.kernels.layer_products import Product, make_product


class Columns(NamedTuple):
    """Columns of what a product gives, by its name within a module: runs of `size / heads`, `stride` columns apart."""

    product: str
    first: int
    size: int
    heads: int = 1
    stride: int = 0

    @property
    def places(self) -> slice | Tensor:
        """Of the columns."""
        if self.heads == 1:
            return slice(self.first, self.first + self.size)
        begins = self.first + self.stride * torch.arange(self.heads)
        return (begins[:, None] + torch.arange(self.size // self.heads)).flatten()

    def of(self, module: nn.Module) -> Product:
        """With the weight of a module, shared where the columns are one run, copied where heads of several projections
        stand in turns; ValueError where there is no product for its dtype here."""
        linear = cast(Any, module.get_submodule(self.product))
        weight, bias = linear.weight.detach(), linear.bias
        product = make_product(weight[self.places], None if bias is None else bias.detach()[self.places])
        if product is None:
            raise ValueError(f"{self.product}: no product for {weight.dtype} here")
        return product

    def on_gpu(self, products: Sequence[str]) -> GpuColumns:
        """Of one of the products that a part computes as a whole."""
        return GpuColumns(products.index(self.product), self.first, self.size, self.heads, self.stride)


def gpu_product(module: nn.Module, name: str) -> HasRows:
    """A product with the weight of a module's part, in float8 where that part's forward is."""
    linear = cast(Any, module.get_submodule(name))
    if isinstance(forward := vars(linear).get("forward"), Float8Product):
        return forward
    return GpuProduct(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
