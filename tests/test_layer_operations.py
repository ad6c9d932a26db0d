"""The norm, gate and rotary embedding in C++ against the same formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator

import instruction_sets
import pytest
import torch
from torch import Tensor

from instsel.kernels.layer_norms import Norm
from instsel.kernels.layer_operations import can_multiply, gate_in_place, gated_linear, linear, rotate_in_place
from instsel.kernels.layer_products import Bfloat16Product, Rows
from instsel.kernels.native_arrays import Machine, array_of

pytestmark = pytest.mark.usefixtures("two_threads")

DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=instruction_sets.long_but_best(instruction_sets.NAMES))
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_sets.forced(request.param) as name:
        yield name


@pytest.fixture(params=instruction_sets.long_but_best(instruction_sets.WITH_BFLOAT16))
def bfloat16_products(request: pytest.FixtureRequest) -> Iterator[str]:
    with instruction_sets.forced(request.param) as name:
        yield name


def rms_norm(x: Tensor, weight: Tensor, offset: float = 0.0) -> Tensor:
    out = torch.empty_like(x)
    Norm.of(weight, offset, 1e-5).into(array_of(x), array_of(out), Machine.now())
    return out


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
        assert within_rounding(rms_norm(x, weight, offset), exact)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 70, 300])
@pytest.mark.parametrize("add", [False, True])
def test_norm_about_the_mean_with_a_bias(add: bool, columns: int, dtype: torch.dtype, instruction_set: str) -> None:
    x, weight, bias = (random(*shape, dtype=dtype) for shape in ((4, columns), (columns,), (columns, 1)))
    bias, out = bias[:, 0].contiguous(), random(4, columns, dtype=dtype, scale=2.0)
    rows = x.double() - x.double().mean(-1, keepdim=True)
    exact = rows * (rows.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight.double() + 1) + bias.double()
    exact = exact + out.double() if add else exact
    norm = Norm.of(weight, 1.0, 1e-5, bias, centred=True)
    (norm.add_to if add else norm.into)(array_of(x), array_of(out), Machine.now())
    assert ((out.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 2e-5).all()


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
    x, cos, sin = (random(*shape, dtype=dtype) for shape in ((rows, heads, size), (rows, size), (rows, size)))
    turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1).double()
    a, b = x.double() * cos.double()[:, None], turned * sin.double()[:, None]
    got = rotate_in_place(x.clone(), cos, sin)
    assert ((got.double() - (a + b)).abs() <= torch.finfo(dtype).eps * (a.abs() + b.abs())).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_part_of_a_head_is_turned(interleaved: bool, dtype: torch.dtype, instruction_set: str) -> None:
    x, cos, sin = (random(*shape, dtype=dtype) for shape in ((5, 3, 22), (5, 12), (5, 12)))
    part = x[..., :12].double()
    turned = torch.cat([-part[..., 6:], part[..., :6]], -1)
    if interleaved:
        turned = torch.stack([-part[..., 1::2], part[..., ::2]], -1).flatten(-2)
    a, b = part * cos.double()[:, None], turned * sin.double()[:, None]
    got = rotate_in_place(x.clone(), cos, sin, interleaved=interleaved)
    assert ((got[..., :12].double() - (a + b)).abs() <= torch.finfo(dtype).eps * (a.abs() + b.abs())).all()
    assert torch.equal(got[..., 12:], x[..., 12:])


# Rows and outputs around the 16 and 32 of a tile; depths of one tile, of several, of more than one pass. Two have rows
# a multiple of 2 KB apart, which are packed; those of the others are multiplied where they are. Those of 420 do not
# fit into half of a second-level cache, so that rows to come are fetched. The last one's weights are more than are
# packed at a time, and no multiple of it.
PRODUCTS = [
    (1, 1, 32), (31, 15, 64), (32, 32, 96), (33, 17, 640), (130, 50, 672), (420, 97, 1312), (70, 33, 1024),
    (3, 6401, 2048),
]  # fmt: skip


def product_and_error(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """x weight^T in float64, and what a float32 sum of its terms may be off by."""
    terms = x.double().abs() @ weight.double().abs().T
    return x.double() @ weight.double().T, terms * x.shape[1] * torch.finfo(torch.float32).eps


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize(("rows", "outputs", "depth"), PRODUCTS)
def test_linear_is_the_formula(rows: int, outputs: int, depth: int) -> None:
    gap = 8 if rows == 33 else 32
    x = random(rows, depth + gap, dtype=torch.bfloat16)[:, :depth]
    weight, bias = random(outputs, depth, dtype=torch.bfloat16), random(outputs, dtype=torch.bfloat16)
    product, error = product_and_error(x, weight)
    for added in (None, bias):
        exact = product if added is None else product + bias.double()
        got = linear(x, weight, added)
        assert ((got.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * exact.abs() + error).all()
    total = random(rows, outputs, dtype=torch.bfloat16, scale=100.0)
    exact = product + total.double()
    Bfloat16Product(weight).add_to(Rows.of(x), Rows.of(total), Machine.now())
    assert ((total.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * (exact.abs() + error) + error).all()


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "outputs", "depth"), PRODUCTS)
def test_gated_linear_is_the_formula(rows: int, outputs: int, depth: int, activation: str) -> None:
    x = random(rows, depth, dtype=torch.bfloat16)
    gate = random(outputs, depth, dtype=torch.bfloat16, scale=4 / math.sqrt(depth))
    up = random(outputs, depth, dtype=torch.bfloat16).flip(0)
    (g, gate_error), (u, up_error) = product_and_error(x, gate), product_and_error(x, up)
    share = torch.sigmoid(g) if activation == "silu" else torch.nn.functional.gelu(g, approximate="tanh") / g
    exact = g * share * u
    # The activations' slopes stay below 1.2; x (1 + tanh(...)) / 2 cancels where x is far below 0.
    error = 1.2 * gate_error * u.abs() + g.abs() * up_error + 16 * torch.finfo(torch.float32).eps * (g * u).abs()
    got = gated_linear(x, gate, up, activation)
    assert ((got.double() - exact).abs() <= torch.finfo(torch.bfloat16).eps * exact.abs() + error).all()


@pytest.mark.usefixtures("bfloat16_products")
@pytest.mark.parametrize("depth", [1024, 1312])
def test_a_row_of_a_product_is_the_same_bits_in_any_company(depth: int) -> None:
    x = random(150, depth, dtype=torch.bfloat16)
    weight, up = random(40, depth, dtype=torch.bfloat16), random(40, depth, dtype=torch.bfloat16).flip(0)
    for product in (lambda rows: linear(rows, weight), lambda rows: gated_linear(rows, weight, up, "silu")):
        together = product(x)
        for chosen in ([0], [149], list(range(7, 45)), list(range(150))[::-1]):
            assert torch.equal(product(x[chosen]), together[chosen])
        one = x.clone()
        one[3] = float("nan")
        spoilt = product(one)
        assert spoilt[3].isnan().all()
        assert torch.equal(spoilt[4:], together[4:])


@pytest.mark.usefixtures("bfloat16_products")
def test_a_product_in_lower_precision_is_not_within_the_bound() -> None:
    """Negative control: one term left out of 1,312 is seen."""
    x, weight = random(4, 1312, dtype=torch.bfloat16), random(9, 1312, dtype=torch.bfloat16)
    exact, error = product_and_error(x, weight)
    got = linear(x, torch.cat([weight[:, :-1], torch.zeros(9, 1)], 1).bfloat16())
    assert ((got.double() - exact).abs() > torch.finfo(torch.bfloat16).eps * exact.abs() + error).any()


@pytest.mark.usefixtures("bfloat16_products")
def test_what_can_be_multiplied() -> None:
    assert can_multiply(torch.zeros(3, 64).bfloat16())
    for other in (torch.zeros(3, 64).half(), torch.zeros(3, 40).bfloat16(), torch.zeros(3, 0).bfloat16()):
        assert not can_multiply(other)
    assert not can_multiply(torch.zeros(64, 3).bfloat16().T)
    assert linear(torch.zeros(0, 64).bfloat16(), torch.zeros(3, 64).bfloat16()).shape == (0, 3)
    with pytest.raises(ValueError, match="multiple of 32"):
        linear(torch.zeros(1, 40).bfloat16(), torch.zeros(3, 40).bfloat16())
    with pytest.raises(ValueError, match="as many columns"):
        linear(torch.zeros(1, 64).bfloat16(), torch.zeros(3, 32).bfloat16())
    with pytest.raises(ValueError, match="bias"):
        linear(torch.zeros(1, 64).bfloat16(), torch.zeros(3, 64).bfloat16(), torch.zeros(2).bfloat16())
    with pytest.raises(ValueError, match="up"):
        gated_linear(
            torch.zeros(1, 64).bfloat16(), torch.zeros(3, 64).bfloat16(), torch.zeros(4, 64).bfloat16(), "silu"
        )


def test_the_bound_sees_another_formula() -> None:
    """Negative control: a norm that forgets its epsilon, or adds the update after, is not within rounding."""
    x, weight = random(4, 300, dtype=torch.float32, scale=1e-2), random(300, dtype=torch.float32)
    without = x.double() * x.double().pow(2).mean(-1, keepdim=True).rsqrt() * weight.double()
    assert not within_rounding(rms_norm(x, weight), without)


def test_what_is_not_finite_stays_so(instruction_set: str) -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    out = rms_norm(x, torch.ones(2))
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
        rms_norm(x, torch.ones(3))
    with pytest.raises(ValueError, match="contiguous"):
        rms_norm(torch.ones(4, 2).T, torch.ones(4))
    with pytest.raises(ValueError, match="up"):
        gate_in_place(x, torch.ones(2, 3), "silu")
    with pytest.raises(ValueError, match="activation"):
        gate_in_place(x, x.clone(), "relu")
    with pytest.raises(ValueError, match="even"):
        rotate_in_place(torch.ones(2, 1, 3), torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="cos and sin"):
        rotate_in_place(torch.ones(2, 1, 4), torch.ones(2, 6), torch.ones(2, 6))
