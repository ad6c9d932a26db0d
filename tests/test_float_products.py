"""Products in float32 by either library against float64, and the choice between them."""

from __future__ import annotations

import json
from pathlib import Path

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
    assert float_product() == library
    assert can_multiply(torch.zeros(3, 40)) == (library == "onednn")
    assert not can_multiply(torch.zeros(40, 3).T) and not can_multiply(torch.zeros(3, 0))


def test_a_choice_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "blis")
    with pytest.raises(ValueError, match=r"INSTSEL_FLOAT_PRODUCT: expected one of .*, got 'blis'"):
        float_product()


@pytest.mark.parametrize(
    ("maker", "instructions", "chosen"),
    [
        ("AuthenticAMD", "AVX512", "onednn"),
        ("HygonGenuine", "AVX512", "onednn"),
        ("GenuineIntel", "AVX512", "mkl"),
        ("AuthenticAMD", "AVX2", "mkl"),
        ("", "AVX512", "mkl"),
        ("", "DEFAULT", "mkl"),
    ],
)
def test_the_choice_is_the_processors(
    maker: str, instructions: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(float_products, "_maker", lambda: maker)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    assert float_product() == chosen
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert float_product() == "mkl"


def test_an_actor_multiplies_by_the_drivers_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node may have another processor."""
    from instsel.parallel.ray_actors import RayWorker

    monkeypatch.setenv(VARIABLE, "")  # what the node says
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)  # of this process
    RayWorker(b"no model", 1, False, None, library).load()
    assert float_product() == library


@pytest.mark.long
@pytest.mark.parametrize("began", [[], ["here"], ["other"], ["here", "other"]], ids=str)
def test_a_run_of_an_earlier_version_goes_on_with_its_libraries_or_says_why_not(
    began: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Earlier versions measured which library is the faster for a shape, and noted it in the folder."""
    here = float_product()
    other = LIBRARIES[LIBRARIES[0] == here]
    monkeypatch.setenv(VARIABLE, here if began != ["other"] else other)
    model = str(Path(instsel.__file__).parent / "demo" / "model")
    run = tmp_path / "run"
    command = ["perplexity", str(write_alpaca(tmp_path / "rows.jsonl", 8)), "--model", model, "--output", str(run)]
    command += ["--device", "cpu", "--dtype", "float32", "--shard-rows", "4", "--quiet"]
    assert main(command) == 0
    whole = pq.read_table(run / "scores.parquet")
    (run / "scores.parquet").unlink()
    sorted((run / "shards").glob("*.parquet"))[-1].unlink()
    manifest = json.loads((run / "manifest.json").read_text()) | {"state": "interrupted"}
    manifest["float_products"] = [[64, 8 + at, {"here": here, "other": other}[one]] for at, one in enumerate(began)]
    (run / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.delenv(VARIABLE)
    capsys.readouterr()
    if "other" in began:
        assert main(command) == 2
        told = capsys.readouterr().err
        named = other if len(began) == 1 else " and ".join(LIBRARIES)
        assert f"was begun with float32 products by {named}, and they are by {here} here" in told
        way = f"set {VARIABLE}={other} to go on" if len(began) == 1 else "to go on with other last digits"
        assert way in told and len(told.strip().splitlines()) == 1
        monkeypatch.setenv(VARIABLE, other if len(began) == 1 else here)
    assert main(command) == 0
    assert pq.read_table(run / "scores.parquet").equals(whole)
