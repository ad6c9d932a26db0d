"""Layers that multiply in float8, on a processor: which do, that packs and sequences agree, and how far they drift."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_layers import build
from tiny_model import tiny_model_folder, write_alpaca
from torch import Tensor, nn

import instsel
from instsel.cli import main
from instsel.engine import float8_checks, model_checks
from instsel.engine.float8_checks import drift_of
from instsel.engine.model_session import ModelSession
from instsel.kernels import gpu_layer
from instsel.kernels.float8_products import Float8Product, Float8Rows
from instsel.layers import float8_layers, fused_modules
from instsel.layers.float8_layers import find_places
from instsel.layers.replica import Replica
from instsel.parallel.moved_scorer import moved

REQUESTS = [([3, 4, 5], [6, 7, 8]), ([3, 4, 5], [8, 9]), ([3, 4, 5, 6], [9, 10]), ([11, 12], [13, 14, 15])]
LARGE = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}  # all products of which are for float8


@pytest.fixture
def as_if_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch has the same product on a processor, in which no model would gain by it."""
    monkeypatch.setattr(float8_checks, "float8_refusal", lambda device, dtype: None)


def open_scorer(model: Any, **options: Any) -> instsel.Scorer:
    scorer = instsel.Scorer(model, device="cpu", backend="reference", layer_products="float8", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _ = scorer.model
    return scorer


class Rounded(nn.Module):
    """A linear module by plain numbers in float64, with the roundings of float8 before and of bfloat16 after."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = _rounded(linear.weight), linear.bias

    def forward(self, x: Tensor) -> Tensor:
        out = _rounded(x.reshape(-1, x.shape[-1])) @ self.weight.T
        out = out if self.bias is None else out + self.bias.double()
        return out.bfloat16().view(*x.shape[:-1], -1)


def _rounded(x: Tensor) -> Tensor:
    factor = (448 / x.double().abs().amax(1, keepdim=True).float()).bfloat16().double()
    scaled = (x.double() * factor).bfloat16().double()
    step = 2.0 ** (torch.frexp(scaled).exponent.clamp_min(-5) - 4)
    return torch.round(scaled / step) * step / factor


def plainly_rounded(model: Any) -> Any:
    for layer in model.model.layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.Linear:
                    setattr(parent, name, Rounded(child))
    return model


def without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of the numbers as they are: what is left is which product is where."""

    def product(a: Tensor, b: Tensor, *, scale_a: Tensor, scale_b: Tensor, bias: Tensor | None, **_: Any) -> Tensor:
        out = a @ b * scale_a * scale_b
        return (out if bias is None else out + bias.float()).bfloat16()

    monkeypatch.setattr(torch, "_scaled_mm", product)
    monkeypatch.setattr(Float8Rows, "of", lambda x: Float8Rows(x.float() / 2, torch.full((len(x), 1), 2.0)))


@pytest.mark.long
@pytest.mark.parametrize("layers", ["own", "of a GPU"])
@pytest.mark.parametrize("name", ["Llama", "Gemma3", "Phi3"])
def test_every_product_of_the_layers_stands_in_its_place(
    name: str, layers: str, as_if_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layers == "of a GPU":
        monkeypatch.setattr(model_checks, "layer_backend", lambda model: "triton")
        monkeypatch.setattr(gpu_layer, "KERNELS", "reference")
        monkeypatch.setattr(fused_modules, "KERNELS", "reference")
    scorer = open_scorer(build(name, torch.bfloat16, **LARGE))
    float8 = instsel.score_batch(scorer, REQUESTS).mean_logprob
    without_rounding(monkeypatch)
    scorer = open_scorer(build(name, torch.bfloat16, **LARGE))
    assert bool(scorer.model.fused_layers and scorer.model.fused_layers.whole) == (layers == "of a GPU")
    assert scorer.model.float8 and len(scorer.model.float8.places) == (8 if name == "Phi3" else 14)
    asked: list[Tensor] = []
    own = Float8Product.of_float8
    monkeypatch.setattr(Float8Product, "of_float8", lambda product, x: asked.append(x.values) or own(product, x))
    batch = instsel.score_batch(scorer, REQUESTS)
    assert len(asked) == len(scorer.model.float8.places) * batch.stats.packs, "once each"
    once = len({id(x) for x in asked}) / batch.stats.packs
    assert once == (8 if layers == "of a GPU" else len(scorer.model.float8.places)), "rows of several are rounded once"
    assert batch.stats.tokens_forwarded < sum(len(c) + len(a) - 1 for c, a in REQUESTS), "prefixes are shared"
    plain = instsel.score_batch(instsel.Scorer(build(name, torch.bfloat16, **LARGE)), REQUESTS).mean_logprob
    last_digits = max(0.04, 0.005 * np.abs(plain).max())
    assert np.abs(batch.mean_logprob - plain).max() < last_digits < np.abs(float8 - plain).max()


def test_the_drift_said_is_the_drift_there_is(as_if_there: None) -> None:
    model = build("Llama", torch.bfloat16, **LARGE)
    scorer = instsel.Scorer(model, device="cpu", backend="reference", layer_products="float8")
    with pytest.warns(model_checks.ScoringWarning, match="not scored exactly") as said:
        found = scorer.model.float8
    assert found is not None and f"by {found.drift:.2g} nats in the mean" in str(said[0].message)
    assert f"({found.drift:.2g} nats a token off)" in scorer.model.arithmetic_by(), "which a manifest keeps"
    session = ModelSession(instsel.Scorer(model, device="cpu").model)
    ids = torch.from_numpy(model_checks.check_ids(session.info, session))
    paths = [ids[:16], torch.cat([ids[:8], ids[16:24]]), torch.cat([ids[:10], ids[20:23]]), ids[:9], ids[3:9]]
    with torch.no_grad():
        rows = [
            torch.cat([one(path[None]).logits[0].double().log_softmax(-1) for path in paths])
            for one in (model, plainly_rounded(build("Llama", torch.bfloat16, **LARGE)))
        ]
    by_hand = (rows[0].exp() * (rows[1] - rows[0]).abs()).sum(1)
    assert found.drift == pytest.approx(float(by_hand.mean()), rel=0.15)
    assert found.largest_row == pytest.approx(float(by_hand.max()), rel=0.3) and found.largest_row > found.drift > 0.01


def test_drift_is_the_mean_over_what_the_model_predicts() -> None:
    before = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]).log()
    after = torch.tensor([[0.25, 0.75, 0.0], [0.25, 0.25, 0.5]]).log()
    wanted = 0.5 * np.log(2) + 0.5 * np.log(1.5)
    assert drift_of(before, after).tolist() == pytest.approx([wanted, 0.0])


def test_head_embeddings_routers_and_small_products_stay() -> None:
    model = build("Llama", torch.bfloat16, vocab_size=96)  # of a size that could be had
    model.config.num_local_experts = 80
    layer = model.model.layers[0]
    layer.router, layer.wide = (nn.Linear(64, size, dtype=torch.bfloat16) for size in (80, 96))
    layer.ragged, layer.other = nn.Linear(64, 100, dtype=torch.bfloat16), nn.Linear(64, 96)
    replica = Replica(model)
    found = find_places(replica, replica.of(model.model), model.config)
    names = {
        id(copy): name for (name, _), copy in zip(model.named_modules(), map(replica.of, model.modules()), strict=True)
    }
    own = {names[id(replica.modules[place])].rpartition("layers.")[2] for place in found}
    parts = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    assert own == {"0.wide", *(f"{layer}.{part}" for layer in (0, 1) for part in parts)}


def test_weights_that_are_trained_meanwhile_are_seen(as_if_there: None) -> None:
    model = build("Llama", torch.bfloat16, **LARGE)
    scorer = open_scorer(model)
    instsel.score_batch(scorer, REQUESTS)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.data.mul_(-1)
    other = open_scorer(model)
    again = instsel.score_batch(scorer, REQUESTS).mean_logprob
    assert np.array_equal(again, instsel.score_batch(other, REQUESTS).mean_logprob)


def test_weights_of_its_own_are_rounded_once(
    as_if_there: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("Llama", torch.bfloat16, **LARGE).save_pretrained(tmp_path)
    scorer = open_scorer(str(tmp_path), tokenizer=object(), dtype="bfloat16")
    monkeypatch.setattr(Float8Product, "of", lambda *_: pytest.fail("rounded again"))
    assert (instsel.score_batch(scorer, REQUESTS).status == "ok").all()


def test_a_product_that_is_wrong_is_refused_at_load(as_if_there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    own = torch._scaled_mm

    def swapped(a: Tensor, b: Tensor, *, scale_a: Tensor, **more: Any) -> Tensor:
        return own(a, b, scale_a=scale_a.roll(1, 0), **more)

    def missing(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("Rowwise scaling is not currently supported on your device\nmore")

    for product, said in (
        (swapped, r"products of \(\d+, \d+\) are off by"),
        (missing, "not currently supported.* device$"),
    ):
        monkeypatch.setattr(torch, "_scaled_mm", product)
        scorer = instsel.Scorer(build("Llama", torch.bfloat16, **LARGE), device="cpu", layer_products="float8")
        with pytest.raises(ValueError, match=f'^layer_products: "float8" cannot be had: .*{said}'):
            _ = scorer.model


@pytest.mark.parametrize(
    ("model", "said"),
    [(lambda: build("Llama", torch.bfloat16), "the model is on cpu"), (lambda: build("Llama"), "the model is on cpu")],
)
def test_on_a_processor_it_is_refused(model: Any, said: str) -> None:
    with pytest.raises(ValueError, match=f"layer_products.*{said}"):
        _ = instsel.Scorer(model(), device="cpu", layer_products="float8").model
    with pytest.raises(ValueError, match="layer_products: expected one of auto, float8, got 'fp8'"):
        instsel.Scorer(model(), layer_products="fp8")


def test_a_run_goes_on_with_the_products_that_it_was_begun_with(
    tmp_path: Path, as_if_there: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float8_layers, "SMALLEST", 16)
    rows, run = write_alpaca(tmp_path / "rows.jsonl", 4), tmp_path / "run"
    command = ["perplexity", str(rows), "--model", tiny_model_folder(), "--device", "cpu", "--dtype", "bfloat16"]
    command += ["--output", str(run), "--quiet"]
    assert main(command) == 0
    assert "layer_products" not in json.loads((run / "manifest.json").read_text())["compared"], "older folders go on"
    assert main([*command, "--layer-products", "float8"]) == 2
    assert "layer_products (none there, float8 now)" in capsys.readouterr().err
    assert main([*command, "--layer-products", "float8", "--overwrite"]) == 0
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["layer_products"] == "float8" and "nats a token off" in manifest["arithmetic"][0]
    assert "not scored exactly" in capsys.readouterr().err
    assert main(command) == 2
    assert "layer_products (float8 there, auto now)" in capsys.readouterr().err


def test_workers_load_their_own_with_it() -> None:
    assert moved(instsel.Scorer("some/name", layer_products="float8"))["layer_products"] == "float8"


@pytest.mark.long
def test_a_gpu_day_says_its_speed_and_what_it_does_to_ranks(as_if_there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_float8

    monkeypatch.setattr(gpu_float8, "float8_refusal", lambda device, dtype: None)
    monkeypatch.setattr(gpu_float8, "SMALL_PACKS", 100)
    found = {name: call() for name, call in gpu_float8.calls("cpu", tiny=True).items()}
    assert all(one["ok"] for one in found.values()) and len(found["products"]["products"]) == 3
    for name in ("tiny wici-k5", "demo wici-k5"):
        one = found[name]
        assert one["scores"]["largest"] > one["scores"]["median"] > 0 and 0.5 < one["scores"]["rank_correlation"] <= 1
        assert one["gains"]["spread"] > 0 and "not scored exactly" in one["said"][-1]
        assert len(one["seconds"]["float8"]) == 1 and one["times_as_fast"] > 0 and one["drift"]["mean"] > 0
        assert set(one["company"]) == {"auto", "float8"}


def test_what_a_gpu_day_says_of_ranks() -> None:
    import gpu_float8

    one = np.arange(20.0)
    other = one.copy()
    other[[0, 19]] = other[[19, 0]]
    found = gpu_float8.moved(one, other)
    assert (found["largest"], found["median"], found["largest_rank_change"]) == (19.0, 0.0, 19)
    assert found["highest_tenth_kept"] == 0.5 and found["rank_correlation"] == pytest.approx(1 - 6 * 2 * 19**2 / 7980)
    assert gpu_float8.gains(np.array([-3.0, -2.0, -1.0, -4.0]), [[(0, 2), (1, 3)], [(0, 1)]]).tolist() == [0.0, 1.0]
    requests, pairs = gpu_float8.requests_of("tiny", 8)
    for probes in pairs:
        for alone, after in probes:
            assert requests[alone][1] == requests[after][1], "the same answer"
            assert requests[after][0][-len(requests[alone][0]) :] == requests[alone][0] and len(probes) == 5
    requests, pairs = gpu_float8.requests_of("demo", 8)
    assert all(requests[alone][1] == requests[after][1] for probes in pairs for alone, after in probes)
