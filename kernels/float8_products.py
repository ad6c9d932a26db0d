"""Products of 16-bit rows with weights in 8 bits: a scale for each row and for each of the weight's channels.

The tensor cores of NVIDIA GPUs since compute capability 8.9 multiply such numbers at twice the rate of bfloat16. A
number keeps 4 significant bits of 8, so that a product is off by a few per cent of its size. A row's bits do not depend
on the rows beside it; but where these move it by a last digit, as torch's other products may, it may round elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .backends import version_outside

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # that FLOAT8 holds
MULTIPLE = 16  # of both sizes of a weight, as torch._scaled_mm takes them
OLDEST_CAPABILITY = (8, 9)
_SMALLEST_ROW = 1e-30  # the largest number of a row for which its scale is finite


class HasRows(Protocol):
    """A product with a weight."""

    def rows(self, x: Tensor) -> Tensor:
        """Of rows [T, K]."""


class Float8Rows(NamedTuple):
    """`values * scales`: values [T, K] in 8 bits, scales [T, 1] float32."""

    values: Tensor
    scales: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Float8Rows:
        """Rows [T, K] of bfloat16, the largest number of each becoming the largest of 8 bits.

        The factor is one of bfloat16, so that rows are multiplied by it without a copy in float32, and its reciprocal
        is the scale. A row that is not finite has no finite product.
        """
        largest = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True, dtype=torch.float32)
        factor = (LARGEST / largest.clamp_min(_SMALLEST_ROW)).to(x.dtype)
        return cls((x * factor).to(FLOAT8).contiguous(), factor.float().reciprocal())


class Float8Product(NamedTuple):
    """`x weight^T + bias` in bfloat16, `x` and `weight` each rounded to 8 bits and a scale a row; sums in float32."""

    weight: Float8Rows  # [N, K], a scale for each of N channels
    bias: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Float8Product:
        """A weight [N, K] of bfloat16."""
        return cls(Float8Rows.of(weight.detach()), None if bias is None else bias.detach())

    def of_float8(self, x: Float8Rows) -> Tensor:
        """Of rows that are rounded already."""
        values, scales = self.weight
        return torch._scaled_mm(
            x.values, values.T, scale_a=x.scales, scale_b=scales.T, bias=self.bias, out_dtype=torch.bfloat16
        )

    def rows(self, x: Tensor) -> Tensor:
        """Of rows [T, K]."""
        return self.of_float8(Float8Rows.of(x))

    def __call__(self, x: Tensor) -> Tensor:
        """As the forward of a linear module, of [..., K]."""
        return self.rows(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])


def product_rows(products: Sequence[HasRows], x: Tensor) -> list[Tensor]:
    """Products of the same rows [T, K], which are rounded to 8 bits once."""
    if len(products) < 2 or not all(isinstance(one, Float8Product) for one in products):
        return [one.rows(x) for one in products]
    rounded = Float8Rows.of(x)
    return [one.of_float8(rounded) for one in products if isinstance(one, Float8Product)]


def float8_refusal(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products in float8 cannot be had for a model, or None if they can."""
    name = str(dtype).removeprefix("torch.")
    if device.type != "cuda" or torch.version.hip is not None:
        return f"it needs an NVIDIA GPU, and the model is on {device}"
    if (has := torch.cuda.get_device_capability(device)) < OLDEST_CAPABILITY:
        needed = ".".join(map(str, OLDEST_CAPABILITY))
        return f"it needs compute capability {needed} or later, and {device} has {has[0]}.{has[1]}"
    if has < (9, 0) and (found := version_outside("torch", ">=2.12")):  # whose kernel there may never end
        return f"at compute capability 8.9 it needs PyTorch 2.12 or later, and this is {found}"
    return None if dtype == torch.bfloat16 else f"it needs a model in bfloat16, and this one is in {name}"
