"""The experts of a mixture on the CPU in bfloat16, all that a pack's rows have chosen in one call."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .layer_memory import Storage
from .native_arrays import Machine, array_of, has_bfloat16_products

_MULTIPLE = 32  # of the sizes that the products take


class ExpertGate(NamedTuple):
    """`a sigmoid(alpha a) (c + offset)` of gates g and up projections u, a = min(g, limit), c = u within +-limit; with
    `gelu_tanh` it is `gelu(a) (c + offset)`."""

    gelu_tanh: bool = False
    alpha: float = 1.0
    limit: float = math.inf
    offset: float = 0.0

    def of(self, gate: Tensor, up: Tensor) -> Tensor:
        """In plain PyTorch."""
        a, c = gate.clamp(max=self.limit), up.clamp(min=-self.limit, max=self.limit)
        active = torch.nn.functional.gelu(a, approximate="tanh") if self.gelu_tanh else a * (self.alpha * a).sigmoid()
        return active * (c + self.offset)


class ExpertWeights(NamedTuple):
    """Views [E, N, H] of a weight and [E, N] of its bias, of bfloat16, in memory as the model has them."""

    weight: Tensor
    bias: Tensor | None = None

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None]:
        """As the C++ kernel sees them."""
        return array_of(self.weight.detach()), None if self.bias is None else array_of(self.bias.detach())

    def can_multiply(self) -> bool:
        """Whether the kernel takes them."""
        outputs, depth = self.weight.shape[1:]
        follow = self.weight.stride(2) == 1 or self.weight.stride(1) in (1, 2)
        sizes = all(size > 0 and size % _MULTIPLE == 0 for size in (outputs, depth))
        return self.weight.dtype == torch.bfloat16 and self.weight.device.type == "cpu" and follow and sizes


class Experts:
    """`sum_k w[t, k] down_e(gate(gate_e(x[t]), up_e(x[t])))` with e the k-th expert that row t has chosen.

    Sums are float32 in order of the depth and of k; gated rows and each expert's result are rounded. A row's result is
    the same bits whatever rows come with it.
    """

    def __init__(self, gate: ExpertWeights, up: ExpertWeights, down: ExpertWeights, function: ExpertGate) -> None:
        self.gate, self.up, self.down, self.function = gate, up, down, function
        self.arrays = *gate.arrays(), *up.arrays(), *down.arrays()

    def can_run(self) -> bool:
        """Whether this processor has the products, and they take these weights."""
        return has_bfloat16_products() and all(part.can_multiply() for part in (self.gate, self.up, self.down))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor, storage: Storage | None = None) -> Tensor:
        """Of rows x [T, H] in bfloat16, experts [T, k] and their weights [T, k]; an expert that is not there gives 0.

        storage  memory that the next call uses again
        """
        from . import _native

        out = torch.empty_like(x)
        experts, inner, hidden = self.gate.weight.shape
        size = _native.experts_bytes(len(x), chosen.shape[1], experts, hidden, inner)
        memory = (storage or Storage()).take("experts", 1, size, torch.uint8)[0]
        _native.bfloat16_experts(
            array_of(x),
            array_of(chosen.long().contiguous()),
            array_of(weights.float().contiguous()),
            *self.arrays,
            *self.function,
            array_of(memory),
            array_of(out),
            *Machine.now(),
        )
        return out
