"""The products of a decoder layer on the CPU, made ready once so that nothing but the product is left to each call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .float_products import by_onednn, float_product
from .layer_operations import can_multiply
from .native_arrays import Machine, array_of


class Rows(NamedTuple):
    """A matrix [T, N] as PyTorch and as the C++ kernels see it: the same memory."""

    tensor: Tensor
    array: np.ndarray

    @classmethod
    def of(cls, tensor: Tensor) -> Rows:
        return cls(tensor, array_of(tensor))


class Product(ABC):
    """`x weight^T + bias` for one weight [N, H], by whatever multiplies its dtype fastest here."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.outputs, self.depth = weight.shape
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()

    @abstractmethod
    def into(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        """The product of rows x [T, H], written to `out` [T, N]."""

    def anywhere(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        """The product in `out`, or in memory of its own where a library gives no choice."""
        return self.into(x, out, machine)

    @abstractmethod
    def add_to(self, x: Rows, out: Rows, machine: Machine) -> None:
        """`out += x weight^T`, for a product without bias."""


class Bfloat16Product(Product):
    """By the C++ kernels: rounded once, the bias and the sum included."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.arrays = array_of(self.weight), None if self.bias is None else array_of(self.bias)

    def into(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        from . import _native

        _native.bfloat16_linear(x.array, *self.arrays, False, out.array, *machine)
        return out

    def add_to(self, x: Rows, out: Rows, machine: Machine) -> None:
        from . import _native

        _native.bfloat16_linear(x.array, *self.arrays, True, out.array, *machine)


class TorchProduct(Product):
    """In float32 by the library that torch uses itself."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight, bias)
        self.transposed = self.weight.t()

    def into(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        if self.bias is None:
            torch.mm(x.tensor, self.transposed, out=out.tensor)
        else:
            torch.addmm(self.bias, x.tensor, self.transposed, out=out.tensor)
        return out

    def add_to(self, x: Rows, out: Rows, machine: Machine) -> None:
        torch.addmm(out.tensor, x.tensor, self.transposed, out=out.tensor)


class OnednnProduct(Product):
    """In float32 by oneDNN, which takes no memory for its result."""

    def into(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        out.tensor.copy_(by_onednn(x.tensor, self.weight, self.bias))
        return out

    def anywhere(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        return Rows.of(by_onednn(x.tensor, self.weight, self.bias))

    def add_to(self, x: Rows, out: Rows, machine: Machine) -> None:
        out.tensor.add_(by_onednn(x.tensor, self.weight))


def make_product(weight: Tensor, bias: Tensor | None = None) -> Product | None:
    """The product by a weight [N, H]; None where there is none for its dtype on this processor."""
    if weight.dtype == torch.bfloat16:
        return Bfloat16Product(weight, bias) if can_multiply(weight) else None
    if weight.dtype != torch.float32 or weight.ndim != 2 or weight.numel() == 0:
        return None
    return (OnednnProduct if float_product(*weight.shape) == "onednn" else TorchProduct)(weight, bias)


class GatedProduct:
    """`activation(x gate^T) * (x up^T)`, without biases; the activation is one of `layer_operations.ACTIVATIONS`."""

    def __init__(self, gate: Product, up: Product, activation: str) -> None:
        self.gate, self.up, self.activation = gate, up, activation

    @property
    def matrices(self) -> int:
        """Matrices [T, I] that it is computed in."""
        return 1 if isinstance(self.gate, Bfloat16Product) else 2

    def into(self, x: Rows, out: tuple[Rows, ...], machine: Machine) -> Rows:
        """The result in memory of `out`: one matrix [T, I] or two."""
        from . import _native

        if isinstance(self.gate, Bfloat16Product) and isinstance(self.up, Bfloat16Product):
            weights = self.gate.arrays[0], self.up.arrays[0]
            _native.bfloat16_gated_linear(x.array, *weights, self.activation, out[0].array, *machine)
            return out[0]
        gate, up = self.gate.anywhere(x, out[0], machine), self.up.anywhere(x, out[1], machine)
        _native.gate_in_place(gate.array, up.array, self.activation, *machine)
        return gate
