"""Norms of a decoder layer's rows on the CPU, each in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from .native_arrays import Machine, array_of


class Norm(NamedTuple):
    """`y / sqrt(mean(y^2) + epsilon) * (weight + offset) + bias` with y = x, less its mean where `centred`."""

    weight: np.ndarray
    offset: float
    epsilon: float
    bias: np.ndarray | None = None
    centred: bool = False

    @classmethod
    def of(
        cls, weight: Tensor, offset: float, epsilon: float, bias: Tensor | None = None, *, centred: bool = False
    ) -> Norm:
        return cls(
            array_of(weight.detach()), offset, epsilon, None if bias is None else array_of(bias.detach()), centred
        )

    def into(self, x: np.ndarray, out: np.ndarray, machine: Machine) -> None:
        """The norm of rows x [T, H], written to `out`."""
        self._run(x, out, False, machine)

    def add_to(self, x: np.ndarray, out: np.ndarray, machine: Machine) -> None:
        """`out += norm(x)`, rounded once."""
        self._run(x, out, True, machine)

    def _run(self, x: np.ndarray, out: np.ndarray, add: bool, machine: Machine) -> None:
        from . import _native

        _native.layer_norm(x, self.weight, self.bias, self.offset, self.epsilon, self.centred, add, out, *machine)
