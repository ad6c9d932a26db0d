"""Fused layers: found by what they compute, equal to the model's own, and put on a replica alone."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama

from instsel.engine.fused_layers import FusedLayers
from instsel.engine.replica import Replica
from instsel.kernels.layer_operations import has_bfloat16_products

pytestmark = pytest.mark.usefixtures("two_threads")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_products(), reason="needs a processor with bfloat16 arithmetic")
IDS = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def products_by_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether products of float32 are our own would otherwise hang on a measurement of small shapes."""
    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "mkl")


def build(name: str, **more: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for module in model.modules():  # norms start as ones, which would hide a forgotten weight
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
    return model


def fused_replica(model: torch.nn.Module) -> tuple[Replica, set[int]]:
    """A replica with the fused layers found for it, and the places of these among its modules."""
    fused = FusedLayers(Replica(model))
    replica = Replica(model)
    fused.put_on(replica)
    return replica, {*fused.norms, *fused.gates, *fused.products, *fused.layers}


def found(model: torch.nn.Module) -> set[str]:
    replica, places = fused_replica(model)
    return {type(replica.modules[place]).__name__ for place in places}


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("Llama", {}, {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer"}),
        ("Qwen3", {"head_dim": 16}, {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3DecoderLayer"}),
        ("Gemma2", {"head_dim": 16}, {"Gemma2RMSNorm", "Gemma2MLP"}),  # four norms a layer
        ("Granite", {"residual_multiplier": 0.3}, {"GraniteRMSNorm", "GraniteMLP"}),  # residual sums are scaled
        ("GPTNeoX", {}, set()),
    ],
)
def test_what_is_found_computes_the_same(name: str, more: dict[str, object], expected: set[str]) -> None:
    model = build(name, **more)
    replica, _ = fused_replica(model)
    assert found(model) == expected
    with torch.inference_mode():
        own = model(IDS).logits.double()
        ours = replica.root(IDS).logits.double()  # type: ignore[operator]
        again = model(IDS).logits.double()
    assert (ours - own).abs().max() <= 2e-5 * own.abs().max()
    assert torch.equal(own, again)
    assert all("forward" not in vars(module) for module in model.modules())


def test_bfloat16_is_nearer_to_the_truth_than_the_model_itself() -> None:
    """One rounding instead of several: the error against float32 is at most the model's own bfloat16 error."""
    model = build("Llama")
    with torch.inference_mode():
        exact = model(IDS).logits
        half = model.bfloat16()
        own = half(IDS).logits.float()
        ours = fused_replica(half)[0].root(IDS).logits.float()  # type: ignore[operator]
    assert (ours - exact).norm() <= 1.1 * (own - exact).norm()


@needs_bfloat16
def test_products_in_bfloat16_are_found_and_a_row_is_the_same_bits_in_any_company() -> None:
    model = build("Llama").bfloat16()
    assert found(model) == {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer", "Linear"}
    replica, _ = fused_replica(model)
    rows = torch.randn(70, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = replica.of(model.model.layers[0])
    projection, mlp = layer.self_attn.q_proj, layer.mlp
    with torch.inference_mode():
        for module in (projection, mlp):
            together = module(rows[None])[0]
            for chosen in ([0], [69], list(range(5, 38)), list(range(70))[::-1]):
                assert torch.equal(module(rows[chosen][None])[0], together[chosen])


@needs_bfloat16
def test_a_projection_with_something_more_is_called() -> None:
    """A hook on a projection must see it called; a projection of another kind must not be read as a bare product."""
    seen: list[str] = []
    model = build("Llama").bfloat16()
    mlp = model.model.layers[0].mlp
    mlp.up_proj.register_forward_hook(lambda *_: seen.append("up"))

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = model.model.layers[1].mlp
    doubled = Doubled(64, 96, bias=False).bfloat16()
    doubled.weight.data.copy_(other.gate_proj.weight.data)
    other.gate_proj = doubled
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        expected = [mlp(x).float(), other(x).float()]
        replica, _ = fused_replica(model)
        seen.clear()
        got = [replica.of(mlp)(x).float(), replica.of(other)(x).float()]
    assert seen == ["up"]
    for own, ours in zip(expected, got, strict=True):
        assert (own - ours).norm() <= 0.02 * own.norm()


def test_the_rotary_function_is_another_in_the_replica_alone() -> None:
    own, model = modeling_llama.apply_rotary_pos_emb, build("Llama")
    replica, _ = fused_replica(model)
    attention = replica.of(model.model.layers[0].self_attn)
    assert inspect.unwrap(attention.forward.__func__).__globals__["apply_rotary_pos_emb"].args == (own,)
    assert inspect.unwrap(type(attention).forward).__globals__["apply_rotary_pos_emb"] is own
    assert modeling_llama.apply_rotary_pos_emb is own


def test_a_rotary_function_behind_a_decorator_is_found() -> None:
    model = build("Llama")
    attention = model.model.layers[0].self_attn
    forward, calls = type(attention).forward, []

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def counted(*arguments: Any, **more: Any) -> Any:
            calls.append(0)
            return function(*arguments, **more)

        return counted

    attention.__class__ = type("Decorated", (type(attention),), {"forward": decorate(forward)})
    replica, _ = fused_replica(model)
    assert "forward" in vars(replica.of(attention))
    calls.clear()
    with torch.inference_mode():
        own, ours = model(IDS).logits, replica.root(IDS).logits  # type: ignore[operator]
    assert len(calls) == 2
    assert (ours - own).abs().max() <= 2e-5 * own.abs().max()


@pytest.mark.parametrize("how", ["of its class", "put in by somebody"])
def test_a_norm_that_computes_something_else_is_not_taken(how: str) -> None:
    """Negative control: recognised by its name it would give wrong numbers; a forward put in would be thrown away."""
    model = build("Llama")
    for layer in model.model.layers:
        norm = layer.input_layernorm
        forward = type(norm).forward
        if how == "of its class":
            louder = {"forward": lambda self, x, forward=forward: forward(self, x) * 1.01}
            norm.__class__ = type("LouderNorm", (type(norm),), louder)
        else:
            norm.forward = lambda x, norm=norm, forward=forward: forward(norm, x)
    replica, places = fused_replica(model)
    taken = {id(replica.modules[place]) for place in places}
    layers = [replica.of(layer) for layer in model.model.layers]
    assert all(id(layer.input_layernorm) not in taken and id(layer) not in taken for layer in layers)
    assert all(id(layer.post_attention_layernorm) in taken for layer in layers)
    put_in = how == "put in by somebody"
    assert all(("forward" in vars(layer.input_layernorm)) == put_in for layer in model.model.layers)
