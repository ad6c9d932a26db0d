"""The layers' elementwise Triton kernels under Triton's interpreter; test_layer_elementwise.py runs this by itself."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from torch import Tensor

from instsel.kernels.layer_elementwise import GATES, add_norm, gate_rows, rotate_heads

# The interpreter cuts bfloat16 off where a GPU rounds it, so that its numbers would say nothing.
DTYPES = (torch.float32, torch.float16)
FAR = 3 * 2**29  # elements between rows: the third begins beyond what 32 bits hold
NORMS = {
    "llama": {},
    "gemma": {"weight_offset": 1.0, "rounds_first": False},
    "layer norm": {"centred": True, "rounds_first": False},
}


def draw(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return (2 * torch.randn(*shape, generator=generator)).to(dtype)


def strided(x: Tensor, step: int | None = None) -> Tensor:
    """The same rows, further apart."""
    step = step or 3 * x[0].numel() + 5
    apart = torch.empty(step * (len(x) - 1) + x[0].numel(), dtype=x.dtype)
    return apart.as_strided(x.shape, (step, *x[0].stride())).copy_(x)


def assert_near(got: Tensor, expected: Tensor, dtype: torch.dtype, digits: float = 1.0) -> None:
    """Within a rounding of the dtype, of functions that two libraries compute."""
    tolerance = max(digits * torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 60, 2049])
@pytest.mark.parametrize("kind", list(NORMS))
def test_sum_and_norm(kind: str, columns: int, dtype: torch.dtype) -> None:
    hidden, added = draw(5, columns, dtype=dtype) + (3 if kind == "layer norm" else 0), draw(5, columns, dtype=dtype)
    weight = 1 + draw(columns, dtype=dtype) / 8
    added = added.flip(0)  # the sum of two equal rows would have the norm of one
    bias = draw(columns, dtype=dtype) if kind == "layer norm" else None
    own, strided_own = hidden.clone(), strided(hidden)
    expected = add_norm(own, weight, 1e-6, added=added, bias=bias, **NORMS[kind])
    apart = strided(added, 2 * columns + 3)  # by another stride than what it is added to
    got = add_norm(strided_own, weight, 1e-6, added=apart, bias=bias, backend="triton", **NORMS[kind])
    assert torch.equal(strided_own, own), "the sum has the model's own rounding"
    assert_near(got, expected, dtype, 2 if dtype == torch.float16 else 32)
    wide_bias = None if bias is None else bias.float()
    exact = add_norm(own.float(), weight.float(), 1e-6, bias=wide_bias, **NORMS[kind])
    assert_near(got, exact, dtype, 4)
    if dtype == torch.float16 and columns > 1:  # rounded where the plain code rounds, but for last digits of sums
        assert float((got != expected).float().mean()) <= 0.05
    without = add_norm(hidden.clone(), weight, 1e-6, bias=bias, **NORMS[kind])
    assert columns == 1 or not torch.equal(expected, without)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_norm_of_heads_within_a_larger_row(dtype: torch.dtype) -> None:
    whole, weight = draw(3, 7, 24, dtype=dtype), 1 + draw(24, dtype=dtype) / 8
    heads = whole[:, 1:6:2]  # not one after another
    assert_near(add_norm(heads, weight, 1e-5, backend="triton"), add_norm(heads, weight, 1e-5), dtype, 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("heads", "size", "turned"), [(1, 2, 2), (40, 48, 48), (3, 80, 20)])
def test_rotary_has_the_bits_of_the_models_own(
    heads: int, size: int, turned: int, interleaved: bool, dtype: torch.dtype
) -> None:
    x, angles = draw(4, heads, size, dtype=dtype), draw(4, turned, dtype=torch.float32)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    whole = strided(x)
    expected = rotate_heads(x.clone(), cos, sin, interleaved=interleaved)
    tables = strided(cos), strided(sin, 2 * turned + 3)
    # Beside them a layer's keys: fewer heads, every other one of a wider row.
    keys = draw(4, 2, size, dtype=dtype)
    apart = strided(keys.repeat_interleave(2, dim=1), 4 * size + 7)[:, ::2]
    got = rotate_heads(whole, *tables, more=apart, interleaved=interleaved, backend="triton")
    assert torch.equal(got, expected)
    assert torch.equal(apart, rotate_heads(keys, cos, sin, interleaved=interleaved))
    other = rotate_heads(x.clone(), cos, sin, interleaved=not interleaved)
    assert turned == 2 or not torch.equal(other, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", GATES)
@pytest.mark.parametrize("columns", [1, 2049])
def test_gate(columns: int, activation: str, dtype: torch.dtype) -> None:
    gate, up = draw(3, columns, dtype=dtype), draw(3, columns, dtype=dtype).flip(0)
    expected = gate_rows(gate.clone(), up, activation)
    got = gate_rows(strided(gate), strided(up, 2 * columns + 3), activation, backend="triton")
    assert_near(got, expected, dtype, 2 if dtype == torch.float16 else 32)
    if (
        dtype == torch.float16
    ):  # rounded where the plain code rounds, but for last digits of exp and erf: 2.4 % of places
        assert float((got != expected).float().mean()) <= 0.05


def test_gates_of_large_numbers() -> None:
    gate = torch.tensor([[-1e30, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4]])
    for activation in GATES:
        got = gate_rows(gate.clone(), torch.ones_like(gate), activation, backend="triton")
        assert_near(got, gate_rows(gate.clone(), torch.ones_like(gate), activation), torch.float32, 8)


def test_a_row_has_the_same_bits_in_any_company() -> None:
    x, weight = draw(9, 60, dtype=torch.float32), draw(60, dtype=torch.float32)
    together = add_norm(x, weight, 1e-6, backend="triton")
    assert all(torch.equal(add_norm(x[i : i + 1], weight, 1e-6, backend="triton")[0], together[i]) for i in range(9))


def test_places_beyond_32_bits() -> None:
    dtype = torch.float16
    x, weight, angles = draw(3, 16, dtype=dtype), draw(16, dtype=dtype), draw(3, 8, dtype=dtype)
    near, far = x.clone(), strided(x, FAR)
    expected = add_norm(near, weight, 1e-6, added=x, backend="triton")
    assert torch.equal(add_norm(far, weight, 1e-6, added=strided(x, FAR), backend="triton"), expected)
    assert torch.equal(far, near)
    gated = gate_rows(strided(x, FAR), strided(x, FAR), "silu", backend="triton")
    assert torch.equal(gated, gate_rows(x.clone(), x, "silu", backend="triton"))
    heads = x.view(3, 2, 8)
    turned = rotate_heads(strided(heads, FAR), strided(angles, FAR), strided(angles, FAR), backend="triton")
    assert torch.equal(turned, rotate_heads(heads.clone(), angles, angles))


def test_nothing_is_launched_for_no_rows() -> None:
    nothing = torch.empty(0, 8)
    assert add_norm(nothing, torch.ones(8), 1e-6, backend="triton").shape == (0, 8)
    assert gate_rows(nothing, nothing.clone(), "silu", backend="triton").shape == (0, 8)
