"""The norm, gate and rotary embedding in C++ against the same formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from instsel.kernels.layer_operations import gate_in_place, rms_norm, rotate_in_place

DTYPES = (torch.float32, torch.bfloat16)
SETS = ("plain", "avx2", "avx512")


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("INSTSEL_INSTRUCTION_SET", request.param)
    try:
        rms_norm(torch.ones(1, 1), torch.ones(1), 1e-5)
    except ValueError as error:
        pytest.skip(str(error))
    return str(request.param)


def within_rounding(got: Tensor, exact: Tensor) -> bool:
    """Every number within one rounding of the dtype and a few of float32 sums, and finite where the exact one is."""
    eps = torch.finfo(got.dtype).eps
    bound = (eps if got.dtype != torch.float32 else 16 * eps) * exact.abs() + 1e-30
    return bool((torch.isfinite(got) == torch.isfinite(exact)).all()) and bool(
        ((got.double() - exact).abs()[torch.isfinite(exact)] <= bound[torch.isfinite(exact)]).all()
    )


def random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(math.prod(shape))
    return (scale * torch.randn(*shape, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(0, 8), (1, 1), (3, 255), (5, 256), (7, 600)])
def test_norm_is_the_formula(rows: int, columns: int, dtype: torch.dtype, instruction_set: str) -> None:
    x, weight = random(rows, columns, dtype=dtype, scale=30.0), random(columns, dtype=dtype)
    before = x.clone()
    for offset in (0.0, 1.0):
        exact = x.double() * (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight.double() + offset)
        assert within_rounding(rms_norm(x, weight, 1e-5, weight_offset=offset), exact)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_with_an_update_adds_it_first_and_keeps_the_sum(dtype: torch.dtype, instruction_set: str) -> None:
    x, update, weight = (
        (random(4, 300, dtype=dtype) for _ in range(2)),
        random(4, 300, dtype=dtype),
        random(300, dtype=dtype),
    )
    kept, expected = list(x)
    expected += update
    out = rms_norm(kept, weight, 1e-6, update=update)
    assert torch.equal(kept, expected)
    assert torch.equal(out, rms_norm(expected, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_gate_is_the_formula(activation: str, dtype: torch.dtype, instruction_set: str) -> None:
    # Far out both functions are 0 or x to the last digit, where a careless exponential overflows to NaN.
    gate = torch.cat(
        [random(3, 401, dtype=torch.float32, scale=4.0).flatten(), torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])]
    )
    gate = gate.to(dtype)[None]
    up = random(1, gate.shape[1], dtype=dtype)
    x = gate.double()
    function = (
        torch.nn.functional.silu if activation == "silu" else lambda z: torch.nn.functional.gelu(z, approximate="tanh")
    )
    exact = function(x) * up.double()
    got = gate_in_place(gate.clone(), up, activation)
    # x (1 + tanh(...)) / 2 cancels where x is far below 0: the error is one of x, not of the result.
    size = exact.abs() if activation == "silu" else (x * up.double()).abs()
    # exp(x) carries the rounding of its argument, |x| roundings of 1 where there is no fused multiply-add.
    assert ((got.double() - exact).abs() <= (4 + x.abs().clamp(max=90)) * torch.finfo(dtype).eps * size + 1e-30).all()
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "heads", "size"), [(0, 2, 8), (1, 1, 2), (5, 3, 6), (9, 4, 64), (3, 2, 1030)])
def test_rotation_is_the_formula(rows: int, heads: int, size: int, dtype: torch.dtype, instruction_set: str) -> None:
    x, cos, sin = (
        random(rows, heads, size, dtype=dtype),
        random(rows, size, dtype=dtype),
        random(rows, size, dtype=dtype),
    )
    turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1).double()
    a, b = x.double() * cos.double()[:, None], turned * sin.double()[:, None]
    got = rotate_in_place(x.clone(), cos, sin)
    assert ((got.double() - (a + b)).abs() <= torch.finfo(dtype).eps * (a.abs() + b.abs())).all()


def test_the_bound_sees_another_formula() -> None:
    """Negative control: a norm that forgets its epsilon, or adds the update after, is not within rounding."""
    x, weight = random(4, 300, dtype=torch.float32, scale=1e-2), random(300, dtype=torch.float32)
    without = x.double() * x.double().pow(2).mean(-1, keepdim=True).rsqrt() * weight.double()
    assert not within_rounding(rms_norm(x, weight, 1e-5), without)


def test_what_is_not_finite_stays_so(instruction_set: str) -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    out = rms_norm(x, torch.ones(2), 1e-5)
    assert out[0].isnan().all() and out[1].isfinite().all()
    gate = torch.tensor([[float("nan"), float("inf")]])
    assert gate_in_place(gate, torch.ones(1, 2), "silu").tolist()[0][1] == float("inf")
    assert gate[0, 0].isnan()
    half = gate_in_place(
        torch.tensor([[float("nan")]], dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bfloat16), "silu"
    )
    assert half.isnan().all()


def test_wrong_arrays_are_refused() -> None:
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match="weight"):
        rms_norm(x, torch.ones(3), 1e-5)
    with pytest.raises(ValueError, match="contiguous"):
        rms_norm(torch.ones(4, 2).T, torch.ones(4), 1e-5)
    with pytest.raises(ValueError, match="up"):
        gate_in_place(x, torch.ones(2, 3), "silu")
    with pytest.raises(ValueError, match="activation"):
        gate_in_place(x, x.clone(), "relu")
    with pytest.raises(ValueError, match="even"):
        rotate_in_place(torch.ones(2, 1, 3), torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="cos and sin"):
        rotate_in_place(torch.ones(2, 1, 4), torch.ones(2, 2), torch.ones(2, 2))
