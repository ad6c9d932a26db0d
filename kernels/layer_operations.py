"""The elementwise parts of a decoder layer on the CPU, each in one pass: norm, gate and rotary embedding.

What PyTorch does in five to seven passes over memory, each with a fresh result, takes longer on a CPU with fast matrix
products than the products between them. float32 or bfloat16, contiguous; sums and functions are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .native_arrays import array_of, instruction_set

DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("silu", "gelu_tanh")


def rms_norm(
    x: Tensor, weight: Tensor, epsilon: float, *, weight_offset: float = 0.0, update: Tensor | None = None
) -> Tensor:
    """`x / sqrt(mean(x^2) + epsilon) * (weight + weight_offset)` of rows [T, H]; with `update`, `x += update` first."""
    from . import _native

    out = torch.empty_like(x)
    added = None if update is None else array_of(update)
    _native.rms_norm(
        array_of(x),
        added,
        array_of(weight),
        weight_offset,
        epsilon,
        array_of(out),
        torch.get_num_threads(),
        instruction_set(),
    )
    return out


def gate_in_place(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up`, written over `gate` [T, I]; the activation is one of `ACTIVATIONS`."""
    from . import _native

    _native.gate_in_place(array_of(gate), array_of(up), activation, torch.get_num_threads(), instruction_set())
    return gate


def rotate_in_place(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [T, heads, d] by cos and sin [T, d], halves rotated against each other, written over x."""
    from . import _native

    _native.rotate_in_place(array_of(x), array_of(cos), array_of(sin), torch.get_num_threads(), instruction_set())
    return x
