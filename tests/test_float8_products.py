"""Products in float8 against their formula in float64: scales by row and by channel, rows that no other moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instsel.kernels import float8_products
from instsel.kernels.float8_products import Float8Product, Float8Rows, float8_refusal, product_rows
from instsel.kernels.gpu_layer import GpuProduct

GPU = torch.device("cuda:1")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Rows of sizes that are far apart, as a layer's are."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 10.0 ** torch.linspace(-3, 3, shape[0])[:, None]
    return (torch.randn(*shape, generator=generator) * sizes).bfloat16()


def rounded(x: Tensor) -> Tensor:
    """Rows with 4 significant bits from 448 times 2^-15 of their largest number on, below that in steps; in float64."""
    x = x.double()
    factor = (448 / x.abs().amax(1, keepdim=True).float()).bfloat16().double()
    scaled = (x * factor).bfloat16().double()
    step = 2.0 ** (torch.frexp(scaled).exponent.clamp_min(-5) - 4)
    return torch.round(scaled / step) * step / factor


def test_a_product_is_that_of_rounded_rows_and_channels() -> None:
    x, weight, bias = drawn(300, 64), drawn(48, 64, seed=1), drawn(48, 1, seed=2)[:, 0]
    got = Float8Product.of(weight, bias).rows(x)
    wanted = rounded(x) @ rounded(weight).T + bias.double()
    assert got.dtype == torch.bfloat16
    error = (got.double() - wanted).abs()
    sums = rounded(x).abs() @ rounded(weight).abs().T + bias.double().abs()
    assert bool((error <= 2**-8 * wanted.abs() + 1e-5 * sums).all())
    exact = x.double() @ weight.double().T + bias.double()
    away = (got.double() - exact).norm() / exact.norm()
    assert 0.01 < away < 0.06, "the control: 4 significant bits are seen"


def test_one_scale_for_all_rows_would_lose_the_small_ones() -> None:
    x, weight = drawn(300, 64), (drawn(1, 48 * 64, seed=1) * 1000).view(48, 64)
    exact = x.double() @ weight.double().T
    got = Float8Product.of(weight).rows(x).double()
    worst = ((got - exact).norm(dim=1) / exact.norm(dim=1)).max()
    scale = x.abs().max() / 448
    together = (x / scale).to(torch.float8_e4m3fn).double() * scale.double() @ weight.double().T
    control = ((together - exact).norm(dim=1) / exact.norm(dim=1)).max()
    assert worst < 0.08 < 0.9 < control


def test_a_row_has_the_same_bits_in_any_company() -> None:
    x, product = drawn(60, 64), Float8Product.of(drawn(48, 64, seed=1))
    whole = product.rows(x)
    x[7], x[8, 3], x[9] = 0.0, float("inf"), float("nan")
    other = product.rows(x)
    rest = [row for row in range(60) if row not in (7, 8, 9)]
    assert torch.equal(other[rest], whole[rest]) and bool((other[7] == 0).all())
    assert not other[8:10].isfinite().any(), "what is not finite is not made finite"
    tiny = (drawn(1, 64).double() * 1e-35).bfloat16()
    assert product.rows(tiny).isfinite().all()


def test_columns_of_another_order_in_memory_and_leading_dimensions() -> None:
    x, product = drawn(12, 64), Float8Product.of(drawn(48, 64, seed=1))
    wanted = product.rows(x)
    turned = x.T.contiguous().T
    assert torch.equal(product.rows(turned), wanted)
    assert Float8Rows.of(turned).values.is_contiguous()  # as a GPU's product wants them, and a processor's does not
    assert torch.equal(product(x.view(1, 3, 4, 64)), wanted.view(1, 3, 4, 48))
    assert product(x[:0][None]).shape == (1, 0, 48)


def test_products_of_the_same_rows_round_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weights = drawn(12, 64), [drawn(48, 64, seed=seed) for seed in (1, 2)]
    products = [Float8Product.of(weight) for weight in weights]
    wanted = [product.rows(x) for product in products]
    asked: list[int] = []
    own = Float8Rows.of
    monkeypatch.setattr(float8_products.Float8Rows, "of", lambda x: asked.append(len(x)) or own(x))
    assert all(map(torch.equal, product_rows(products, x), wanted)) and asked == [12]
    plain = GpuProduct(weights[0])
    mixed = product_rows([plain, products[1]], x)
    assert torch.equal(mixed[0], plain.rows(x)) and torch.equal(mixed[1], wanted[1])


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "found", "said"),
    [
        ("cpu", torch.bfloat16, (9, 0), None, "an NVIDIA GPU, and the model is on cpu"),
        ("cuda:1", torch.bfloat16, (8, 6), None, "8.9 or later, and cuda:1 has 8.6"),
        ("cuda:1", torch.float32, (9, 0), None, "a model in bfloat16, and this one is in float32"),
        ("cuda:1", torch.float16, (9, 0), None, "a model in bfloat16, and this one is in float16"),
        ("cuda:1", torch.bfloat16, (8, 9), "2.11.0", "PyTorch 2.12 or later, and this is 2.11.0"),
        ("cuda:1", torch.bfloat16, (8, 9), None, None),
        ("cuda:1", torch.bfloat16, (9, 0), "2.11.0", None),
        ("cuda:1", torch.bfloat16, (12, 0), None, None),
    ],
)
def test_where_it_cannot_be_had(
    device: str, dtype: torch.dtype, capability: tuple[int, int], found: str | None, said: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(float8_products, "version_outside", lambda name, versions: found)
    refused = float8_refusal(torch.device(device), dtype)
    assert refused == said if said is None else refused is not None and said in refused
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "NVIDIA" in str(float8_refusal(GPU, torch.bfloat16))
