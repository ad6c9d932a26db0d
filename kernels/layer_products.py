"""The products of a decoder layer on the CPU, made ready once so that nothing but the product is left to each call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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
        """`out += x weight^T + bias`."""


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
        if self.bias is not None:
            out.tensor.add_(self.bias)


class OnednnProduct(Product):
    """In float32 by oneDNN, which takes no memory for its result."""

    def into(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        out.tensor.copy_(by_onednn(x.tensor, self.weight, self.bias))
        return out

    def anywhere(self, x: Rows, out: Rows, machine: Machine) -> Rows:
        return Rows.of(by_onednn(x.tensor, self.weight, self.bias))

    def add_to(self, x: Rows, out: Rows, machine: Machine) -> None:
        out.tensor.add_(by_onednn(x.tensor, self.weight, self.bias))


def make_product(weight: Tensor, bias: Tensor | None = None) -> Product | None:
    """The product by a weight [N, H]; None where there is none for its dtype on this processor."""
    if weight.dtype == torch.bfloat16:
        return Bfloat16Product(weight, bias) if can_multiply(weight) else None
    if weight.dtype != torch.float32 or weight.ndim != 2 or weight.numel() == 0:
        return None
    return (OnednnProduct if float_product() == "onednn" else TorchProduct)(weight, bias)


Activation = str | Callable[[Tensor], Tensor]  # one of `layer_operations.ACTIVATIONS`, or the model's own


class FeedForward:
    """`down(activation(gate(x)) * up(x))`, or `down(activation(gate(x)))` without `up`."""

    def __init__(self, gate: Product, up: Product | None, activation: Activation, down: Product) -> None:
        self.gate, self.up, self.activation, self.down = gate, up, activation, down
        named = isinstance(activation, str) and isinstance(gate, Bfloat16Product)
        self._at_once = named and isinstance(up, Bfloat16Product) and gate.bias is None and up.bias is None

    @property
    def depth(self) -> int:
        """Numbers of a row between the products."""
        return self.gate.outputs

    @property
    def matrices(self) -> int:
        """Matrices [T, I] that it is computed in."""
        return 1 if self._at_once or self.up is None else 2

    def into(self, x: Rows, out: Sequence[Rows], machine: Machine) -> Rows:
        """The rows that `down` multiplies, in memory of `out`: one matrix [T, I] or two."""
        from . import _native

        if self._at_once:
            assert isinstance(self.gate, Bfloat16Product) and isinstance(self.up, Bfloat16Product)
            assert isinstance(self.activation, str)
            weights = self.gate.arrays[0], self.up.arrays[0]
            _native.bfloat16_gated_linear(x.array, *weights, self.activation, out[0].array, *machine)
            return out[0]
        gate = self.gate.anywhere(x, out[0], machine)
        up = None if self.up is None else self.up.anywhere(x, out[1], machine)
        if up is not None and isinstance(self.activation, str):
            _native.gate_in_place(gate.array, up.array, self.activation, *machine)
            return gate
        assert not isinstance(self.activation, str)
        active = self.activation(gate.tensor)
        return Rows.of(active if up is None else active.mul_(up.tensor))
