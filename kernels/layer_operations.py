"""The parts of a decoder layer on the CPU, each in one pass: products, gate and rotary embedding.

What PyTorch does in five to seven passes over memory, each with a fresh result, takes longer on a CPU with fast matrix
products than the products between them. float32 or bfloat16, contiguous; sums and functions are float32. The products
are for bfloat16 on a processor with AMX or avx512_bf16, where a row's result does not depend on how many rows come with
it and the gate or the residual sum is applied before the product is rounded; and for float32 where oneDNN is the faster
library.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .float_products import float_linear, float_product
from .native_arrays import Machine, array_of, has_bfloat16_products

DTYPES = (torch.float32, torch.bfloat16)
ACTIVATIONS = ("silu", "gelu_tanh")


def gate_in_place(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(gate) * up`, written over `gate` [T, I]; the activation is one of `ACTIVATIONS`."""
    from . import _native

    _native.gate_in_place(array_of(gate), array_of(up), activation, *Machine.now())
    return gate


def rotate_in_place(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    """Rotary embedding of x [T, heads, d] by cos and sin [T, r], written over the first r numbers of each head.

    Their halves are turned against each other, or, `interleaved`, each even number against the next.
    """
    from . import _native

    _native.rotate_in_place(array_of(x), array_of(cos.float()), array_of(sin.float()), interleaved, *Machine.now())
    return x


def can_multiply(weight: Tensor) -> bool:
    """Whether `linear` and `gated_linear` take a weight [N, H] and gain by it.

    Of bfloat16 where the processor has its arithmetic, for H a multiple of 32; of float32 where oneDNN is faster than
    what torch does by itself.
    """
    if weight.ndim != 2 or weight.numel() == 0 or weight.stride(1) != 1:
        return False
    if weight.dtype == torch.float32:
        return weight.device.type == "cpu" and float_product() == "onednn"
    return weight.dtype == torch.bfloat16 and weight.shape[1] % 32 == 0 and has_bfloat16_products()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` of rows x [T, H] and a weight [N, H] that `can_multiply`, rounded once."""
    from . import _native

    if x.dtype == torch.float32:
        return float_linear(x, weight, bias)
    out = x.new_empty(x.shape[0], weight.shape[0])
    arrays = array_of(x), array_of(weight), None if bias is None else array_of(bias)
    _native.bfloat16_linear(*arrays, False, array_of(out), *Machine.now())
    return out


def gated_linear(x: Tensor, gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """`activation(x gate^T) * (x up^T)` of rows x [T, H] and weights [I, H] that `can_multiply`, rounded once."""
    from . import _native

    if x.dtype == torch.float32:
        return gate_in_place(float_linear(x, gate), float_linear(x, up), activation)
    out = x.new_empty(x.shape[0], gate.shape[0])
    arrays = array_of(x), array_of(gate), array_of(up)
    _native.bfloat16_gated_linear(*arrays, activation, array_of(out), *Machine.now())
    return out
