"""Triton: `activation(gate) * up`, written over the gate, with the roundings of the models' own code."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048


@triton.jit
def layer_gate_kernel(gate, up, gate_stride, up_stride, columns, activation: tl.constexpr, block: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = column < columns
    at = gate + token * gate_stride + column
    x = tl.load(at, mask=inside, other=0.0)
    kind = x.dtype
    x = x.to(tl.float32)
    if activation == "silu":
        active = x / (1.0 + tl.exp(-x))
    elif activation == "gelu_tanh":
        # 0.5 (1 + tanh(z)) is the logistic function of 2 z.
        z = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        active = x / (1.0 + tl.exp(-2.0 * z))
    else:
        active = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    factor = tl.load(up + token * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    # Rounded between the two, as the model's own activation gives its result.
    tl.store(at, (active.to(kind).to(tl.float32) * factor).to(kind), mask=inside)


def gate_in_place(gate: Tensor, up: Tensor, activation: str) -> None:
    """Rows [T, I] with a contiguous last dimension."""
    tokens, columns = gate.shape
    if tokens * columns == 0:
        return
    block = min(BLOCK, triton.next_power_of_2(columns))
    layer_gate_kernel[(tokens, triton.cdiv(columns, block))](
        gate,
        up,
        gate.stride(0),
        up.stride(0),
        columns,
        activation=activation,
        block=block,
        num_warps=4,
        enable_fp_fusion=False,
    )
