"""Fused layers: found by what they compute, equal to the model's own, gone when a run ends."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama

from instsel.fused_layers import FusedLayers

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
IDS = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(0))


def build(name: str, **more: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for module in model.modules():  # norms start as ones, which would hide a forgotten weight
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
    return model


def found(fused: FusedLayers) -> set[str]:
    return {type(module).__name__ for module, _ in fused._forwards}


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
    fused = FusedLayers(model)
    assert found(fused) == expected
    with torch.inference_mode():
        own = model(IDS).logits.double()
        with fused.active():
            ours = model(IDS).logits.double()
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
        with FusedLayers(half).active():
            ours = half(IDS).logits.float()
    assert (ours - exact).norm() <= 1.1 * (own - exact).norm()


def test_rotary_function_is_put_back() -> None:
    own = modeling_llama.apply_rotary_pos_emb
    fused = FusedLayers(build("Llama"))
    with fused.active():
        assert modeling_llama.apply_rotary_pos_emb is not own
    assert modeling_llama.apply_rotary_pos_emb is own
    with pytest.raises(RuntimeError, match="stop"), fused.active():
        raise RuntimeError("stop")
    assert modeling_llama.apply_rotary_pos_emb is own


def test_a_norm_that_computes_something_else_is_not_taken() -> None:
    """Negative control: recognised by its name it would give wrong numbers."""
    model = build("Llama")
    for layer in model.model.layers:
        norm = layer.input_layernorm
        norm.forward = lambda x, norm=norm: type(norm).forward(norm, x) * 1.01
    fused = FusedLayers(model)
    taken = {id(module) for module, _ in fused._forwards}
    assert all(id(layer.input_layernorm) not in taken and id(layer) not in taken for layer in model.model.layers)
    assert all(id(layer.post_attention_layernorm) in taken for layer in model.model.layers)
