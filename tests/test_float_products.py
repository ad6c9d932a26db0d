"""Products in float32 by either library against float64, and the choice between them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_model import write_alpaca
from torch import Tensor

import instsel
from instsel.cli import main
from instsel.kernels import float_products, linear_logprob
from instsel.kernels.float_products import LIBRARIES, VARIABLE, float_linear, float_product
from instsel.kernels.layer_operations import can_multiply, gated_linear, linear


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def problem(rows: int, outputs: int, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + outputs + depth)
    x, weight = (torch.randn(n, depth, generator=generator) for n in (rows, outputs))
    return x, weight, torch.randn(outputs, generator=generator)


def within_bound(got: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    exact = x.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    terms = x.double().abs() @ weight.double().abs().T + (0.0 if bias is None else bias.double().abs())
    return bool(
        ((got.double() - exact).abs() <= (x.shape[1] ** 0.5 + 4) * torch.finfo(torch.float32).eps * terms).all()
    )


@pytest.mark.parametrize("shape", [(0, 3, 5), (1, 1, 1), (37, 100, 77), (300, 65, 576)], ids=str)
def test_a_product_is_the_formula(shape: tuple[int, int, int], library: str) -> None:
    x, weight, bias = problem(*shape)
    assert within_bound(float_linear(x, weight), x, weight)
    assert within_bound(float_linear(x, weight, bias), x, weight, bias)
    strided = torch.cat([x, x], dim=1)[:, : shape[2]]
    assert within_bound(linear(strided, weight, bias), x, weight, bias)
    weight = weight / shape[2] ** 0.5
    gated = gated_linear(x, weight, weight.flip(0), "silu").double()
    gate, up = x.double() @ weight.double().T, x.double() @ weight.double().flip(0).T
    torch.testing.assert_close(gated, torch.nn.functional.silu(gate) * up, atol=1e-5, rtol=1e-5)


def test_a_product_in_lower_precision_is_not_within_the_bound() -> None:
    """Negative control: operands rounded to bfloat16 are seen."""
    x, weight, _ = problem(37, 100, 77)
    assert not within_bound(float_linear(x.bfloat16().float(), weight), x, weight)


def test_the_head_is_the_same_by_either(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, _ = problem(130, 3000, 64)
    rows = torch.arange(130)
    exact = torch.log_softmax(hidden.double() @ weight.double().T, dim=1)[rows, rows]
    for name in LIBRARIES:
        monkeypatch.setenv(VARIABLE, name)
        got = linear_logprob(hidden, weight, rows, rows, backend="cpu").logprob
        torch.testing.assert_close(got.double(), exact, atol=2e-5, rtol=1e-6)


def test_the_choice_is_the_environments(library: str) -> None:
    assert float_product(300, 200) == library
    assert can_multiply(torch.zeros(3, 40)) == (library == "onednn")
    assert not can_multiply(torch.zeros(40, 3).T) and not can_multiply(torch.zeros(3, 0))


def test_a_choice_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "blis")
    with pytest.raises(ValueError, match=r"INSTSEL_FLOAT_PRODUCT: expected one of .*, got 'blis'"):
        float_product(4, 4)


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "onednn"), (1.05, "mkl"), (0.5, "mkl")])
def test_the_faster_is_chosen_once(gain: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    calls = []

    def seconds(product: object, x: Tensor, weight: Tensor) -> float:
        calls.append(product)
        return gain if product is float_products.by_mkl else 1.0

    monkeypatch.setattr(float_products, "_seconds", seconds)
    monkeypatch.setattr(float_products, "_measured", {})
    assert [float_product(50, 40) for _ in range(3)] == [chosen] * 3
    assert len(calls) == 2 * float_products.TIMED_PAIRS


@pytest.mark.parametrize("known", [True, False])
def test_a_run_goes_on_with_the_libraries_that_it_began_with(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement of another moment would give the rows that are left other bits; as it does where none is kept."""
    monkeypatch.delenv(VARIABLE, raising=False)
    model = str(Path(instsel.__file__).parent / "demo" / "model")
    run = tmp_path / "run"
    command = ["perplexity", str(write_alpaca(tmp_path / "rows.jsonl", 20)), "--model", model, "--output", str(run)]
    command += ["--device", "cpu", "--dtype", "float32", "--shard-rows", "10", "--quiet"]

    def start(library: str) -> pa.Table:
        monkeypatch.setattr(float_products, "_measured", {})
        monkeypatch.setattr(float_products, "_faster", lambda outputs, depth: library)
        assert main(command) == 0
        return pq.read_table(run / "scores.parquet")

    whole = start("onednn")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["float_products"] and {library for *_, library in manifest["float_products"]} == {"onednn"}
    (run / "scores.parquet").unlink()
    sorted((run / "shards").glob("*.parquet"))[-1].unlink()
    manifest["state"] = "interrupted"
    if not known:
        del manifest["float_products"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    again = start("mkl")
    assert again.equals(whole) == known
    np.testing.assert_allclose(again["perplexity"].to_numpy(), whole["perplexity"].to_numpy(), rtol=1e-4)
