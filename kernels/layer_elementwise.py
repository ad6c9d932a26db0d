"""What stands between a layer's products, in one pass over memory each: residual sum and norm, rotary embedding, gate.

float32, bfloat16 or float16; the last dimension is contiguous and rows may be strided. The plain PyTorch code is the
specification: it rounds where the models' own code does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .devices import current

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GATES = ("silu", "gelu_tanh", "gelu")
BACKENDS = ("reference", "triton")
LARGEST_ROW = 8192  # numbers, which one program holds in registers: 16,384 would spill 32 bytes on sm_90


def add_norm(
    hidden: Tensor,
    weight: Tensor,
    epsilon: float,
    *,
    added: Tensor | None = None,
    bias: Tensor | None = None,
    weight_offset: float = 0.0,
    centred: bool = False,
    rounds_first: bool = True,
    backend: str = "reference",
) -> Tensor:
    """`hidden += added`, then `y / sqrt(mean(y^2) + epsilon) * (weight + weight_offset) + bias` of its rows.

    hidden        [T, H] or [T, heads, H]; `added` [T, H] is written into it, rounded, where it is given
    centred       y is a row less its mean (layer norm), otherwise the row (RMS norm)
    rounds_first  y is rounded before it is multiplied by the weight, as Llama's norm does and Gemma's does not

    ValueError for a shape, dtype or backend that is not listed here.
    """
    rows = hidden[:, None] if hidden.ndim == 2 else hidden
    _check("hidden", rows, 3, backend)
    if not 1 <= rows.shape[2] <= LARGEST_ROW:
        raise ValueError(f"hidden: expected rows of 1 to {LARGEST_ROW} numbers, got {rows.shape[2]}")
    for name, one in (("weight", weight), ("bias", bias)):
        if one is not None and (one.shape != rows.shape[2:] or not one.is_contiguous()):
            raise ValueError(f"{name}: expected a contiguous tensor [{rows.shape[2]}], got {list(one.shape)}")
    if added is not None and (hidden.ndim != 2 or added.shape != hidden.shape or added.dtype != hidden.dtype):
        raise ValueError(f"added: expected the shape and dtype of hidden [T, H], got {list(added.shape)} {added.dtype}")
    if added is not None and added.stride(-1) != 1:
        raise ValueError("added: expected a contiguous last dimension")
    if backend == "reference":
        return _add_norm(hidden, added, weight, bias, epsilon, weight_offset, centred, rounds_first)
    from .triton_layer_norm import layer_norm

    out = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    with current(hidden.device):
        layer_norm(
            rows,
            weight,
            epsilon,
            added=added,
            bias=bias,
            offset=weight_offset,
            centred=centred,
            rounds_first=rounds_first,
            out=out,
        )
    return out.view(hidden.shape)


def rotate_heads(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    more: Tensor | None = None,
    interleaved: bool = False,
    backend: str = "reference",
) -> Tensor:
    """`x * cos + turned(x) * sin` of the first r numbers of heads x [T, heads, d], written over them.

    Tables are [T, r]; in the dtype of x both products are rounded to it, in float32 only their sum is. Halves are
    turned against each other, or, `interleaved`, each even number against the next. `more` heads [T, others, d], a
    layer's keys beside its queries, are turned in the same pass. ValueError for other shapes.
    """
    heads = [("x", x)] if more is None else [("x", x), ("more", more)]
    for name, one in heads:
        _check(name, one, 3, backend)
        if one.dtype != x.dtype or one.shape[::2] != x.shape[::2]:
            raise ValueError(
                f"{name}: expected the tokens, head size and dtype of x, got {list(one.shape)} {one.dtype}"
            )
    for name, table in (("cos", cos), ("sin", sin)):
        _check(name, table, 2, backend)
        if table.shape != cos.shape or table.shape[0] != x.shape[0] or table.dtype not in (x.dtype, torch.float32):
            raise ValueError(f"{name}: expected [{x.shape[0]}, r] in {x.dtype}, got {list(table.shape)} {table.dtype}")
    if sin.dtype != cos.dtype:
        raise ValueError(f"sin: expected the dtype of cos, {cos.dtype}, got {sin.dtype}")
    if cos.shape[1] % 2 or not 2 <= cos.shape[1] <= x.shape[2]:
        raise ValueError(f"cos: expected an even number of columns up to {x.shape[2]}, got {cos.shape[1]}")
    if backend == "triton":
        from .triton_layer_rotary import rotate

        with current(x.device):
            rotate(x, more, cos, sin, interleaved=interleaved)
        return x
    for _, one in heads:
        part = one[..., : cos.shape[1]]
        if interleaved:
            turned = torch.stack([-part[..., 1::2], part[..., ::2]], dim=-1).flatten(-2)
        else:
            first, second = part.chunk(2, dim=-1)
            turned = torch.cat([-second, first], dim=-1)
        part.copy_(part * cos[:, None] + turned * sin[:, None])
    return x


def gate_rows(gate: Tensor, up: Tensor, activation: str, *, backend: str = "reference") -> Tensor:
    """`activation(gate) * up` of rows [T, I], written over `gate`; the activation is one of `GATES`."""
    _check("gate", gate, 2, backend)
    _check("up", up, 2, backend)
    if up.shape != gate.shape or up.dtype != gate.dtype:
        raise ValueError(f"up: expected {list(gate.shape)} {gate.dtype}, got {list(up.shape)} {up.dtype}")
    if activation not in GATES:
        raise ValueError(f"activation: expected one of {', '.join(GATES)}, got {activation!r}")
    if backend == "triton":
        from .triton_layer_gate import gate_in_place

        with current(gate.device):
            gate_in_place(gate, up, activation)
        return gate
    if activation == "silu":
        active = nn.functional.silu(gate)
    else:
        active = nn.functional.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none")
    return gate.copy_(active * up)


def _check(name: str, x: Tensor, dimensions: int, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if x.ndim != dimensions or x.dtype not in DTYPES or (x.numel() and x.stride(-1) != 1):
        raise ValueError(
            f"{name}: expected {dimensions} dimensions, the last contiguous, in float32, bfloat16 or float16, "
            f"got {list(x.shape)} {x.dtype} with strides {list(x.stride())}"
        )


def _add_norm(
    hidden: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    epsilon: float,
    offset: float,
    centred: bool,
    rounds_first: bool,
) -> Tensor:
    if added is not None:
        hidden.add_(added)
    y = hidden.float()
    if centred:
        y = y - y.mean(-1, keepdim=True)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + epsilon)
    if rounds_first:
        y = y.to(hidden.dtype).float()
    y = y * (weight.float() + offset)
    return (y if bias is None else y + bias.float()).to(hidden.dtype)
