"""Families of today's models: whose layers run in one run of kernels, and which parts keep the others from it."""

from __future__ import annotations

import warnings

import pytest
from architectures import build_model
from recorded_layers import find_layers

import instsel
from instsel.layers.whole_layers import OwnCall

pytestmark = pytest.mark.usefixtures("two_threads")

ALL_KERNELS = (
    *(
        "llama",
        "mistral",
        "qwen2",
        "qwen3",
        "granite",
        "granite_swa",
        "seed_oss",
        "internlm3",
        "smollm3",
        "hyperclovax",
    ),
    *("gemma", "gemma2", "gemma3_text", "vaultgemma", "olmo2", "olmo3", "exaone4", "glm", "glm4", "ernie4_5"),
    *("hunyuan_v1_dense", "helium", "phi", "phi3", "cohere", "cohere2", "starcoder2", "stablelm", "gpt_neox"),
    *("nemotron", "arcee", "jais2"),
)
# Parts that are called as they are, between the kernels of the others.
WITH_OWN_PARTS = {
    "apertus": {"mlp"},  # an activation with parameters
    "ministral3": {"self_attn"},  # queries grow with the position
    "qwen3_moe": {"mlp"},  # experts
    "olmoe": {"mlp"},
    "gpt_oss": {"mlp"},
    "lfm2": {"conv"},
    "falcon_h1": {"mamba"},
    "nemotron_h": {"mixer"},  # of some layers; others have attention or a feed-forward network for one
    "qwen3_5_text": {"linear_attn", "self_attn"},  # a gate on the result of attention
}
BY_THEIR_OWN_CODE = ("gemma4_text",)  # layers that compute with more than hidden states


@pytest.mark.long
@pytest.mark.parametrize("kind", [*ALL_KERNELS, *WITH_OWN_PARTS, *BY_THEIR_OWN_CODE])
def test_how_the_layers_of_a_family_run(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "mkl")  # so that no product is timed
    model = build_model(kind)
    found = find_layers(model).whole.values()
    assert len(found) == (0 if kind in BY_THEIR_OWN_CODE else model.config.num_hidden_layers)
    own = {name for layer in found for name, part in layer.parts if isinstance(part, OwnCall)}
    assert own == WITH_OWN_PARTS.get(kind, set())


def test_parts_that_stand_in_lists_are_seen() -> None:
    """LongCat Flash has two of each in a layer."""
    found = find_layers(build_model("longcat_flash")).whole.values()
    assert len(found) == 4
    for layer in found:
        kernels = {name for name, part in layer.parts if not isinstance(part, OwnCall)}
        assert {f"{name}.{place}" for name in ("input_layernorm", "mlps") for place in (0, 1)} <= kernels


def test_a_model_whose_attention_takes_no_pack_is_loaded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = instsel.Scorer(build_model("doge"), device="cpu", dtype="float32").model
    assert model.shareable_length == 0 and model.fused_layers is not None and not model.fused_layers.whole
