"""Checkpoints of models that read images too: opened by name, scored as their text part by itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from random_models import means_one_by_one
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model_folder, write_alpaca
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import instsel
from instsel.cli import main
from instsel.engine.model_checks import ScoringWarning

PAIRS = [([5, 6, 7], [8, 9]), ([5, 6], [10]), ([5, 6, 7, 20, 30], [9, 40])]
TEXT = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
}
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
MIXED_POSITIONS = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
QWEN = {"depth": 2, "num_heads": 4, "hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 96, "patch_size": 8}
DELTA_RULE = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [1, 1, 0],
        "partial_rotary_factor": 0.25,
    },
}
EXPERTS = {"intermediate_size_mlp": 96, "num_local_experts": 2}
SQUARE = {"image_size": [32, 32], "patch_size": [8, 8]}
# Of each the text part's settings, the vision part's, and the class that its scores come from.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "mistral3": (
        TEXT | {"model_type": "ministral3"},
        VISION | {"model_type": "pixtral"},
        "Mistral3ForConditionalGeneration",
    ),
    "qwen2_5_vl": (TEXT | MIXED_POSITIONS, QWEN, "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": (TEXT | MIXED_POSITIONS, QWEN | {"deepstack_visual_indexes": [0]}, "Qwen3VLForConditionalGeneration"),
    "internvl": (TEXT | {"model_type": "qwen3"}, VISION | SQUARE, "InternVLForConditionalGeneration"),
    "llava": (
        TEXT | {"model_type": "llama"},
        VISION | {"model_type": "clip_vision_model"},
        "LlavaForConditionalGeneration",
    ),
    "gemma3": (TEXT, VISION, "Gemma3ForConditionalGeneration"),
    # Classes of the text part alone, which leave the weights of the vision part unread.
    "qwen3_5": (TEXT | DELTA_RULE, QWEN, "Qwen3_5ForCausalLM"),
    "llama4": (TEXT | EXPERTS, VISION | {"vision_output_dim": 64}, "Llama4ForCausalLM"),
}


def new_model(kind: str) -> Any:
    text, vision, _ = KINDS[kind]
    config = CONFIG_MAPPING[kind](text_config=text, vision_config=vision)
    torch.manual_seed(0)
    return transformers.AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_scores_as_its_own_text_part_and_shares(kind: str, tmp_path: Path) -> None:
    model = new_model(kind)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer = instsel.Scorer(str(tmp_path), device="cpu", dtype="float32")
        got = instsel.score_batch(scorer, PAIRS).mean_logprob
    # Llama 4's own forward of the whole cannot do without images.
    own = model.language_model if kind == "llama4" else model
    want = means_one_by_one(own, PAIRS, float64=False)
    assert want.std() > 0.05
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert type(scorer.model.model).__name__ == type(scorer.outline.model).__name__ == KINDS[kind][2]
    assert scorer.model.shareable_length in (None, 8192)
    said = [str(w.message) for w in caught if issubclass(w.category, ScoringWarning)]
    assert not [one for one in said if "not read" in one]


@pytest.mark.long
def test_weights_of_no_part_are_refused_beside_those_of_the_vision_part(tmp_path: Path) -> None:
    new_model("llama4").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    extra = "language_model.model.layers.0.self_attn.q_proj.bias"
    save_file(load_file(file) | {extra: torch.zeros(64)}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 of its weights are not read .*\(.*q_proj\.bias\)"):
        _ = instsel.Scorer(str(tmp_path), device="cpu").model
    with pytest.warns(ScoringWarning, match="1 of its weights are not read"):
        _ = instsel.Scorer(str(tmp_path), device="cpu", allow_unused_weights=True).model


@pytest.mark.long
def test_the_command_line_opens_one(tmp_path: Path) -> None:
    model = new_model("mistral3")
    model.resize_token_embeddings(264)
    model.save_pretrained(tmp_path / "model")
    for file in Path(tiny_model_folder()).glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    rows = write_alpaca(tmp_path / "rows.jsonl", 4)
    run = tmp_path / "run"
    assert main(["perplexity", str(rows), "--model", str(tmp_path / "model"), "--output", str(run), "--quiet"]) == 0
    assert np.isfinite(pq.read_table(run / "scores.parquet")["mean_logprob"].to_numpy()).all()


def test_a_model_that_needs_images_or_is_no_causal_one_is_refused_in_one_line(tmp_path: Path) -> None:
    vision = VISION | {"model_type": "siglip_vision_model"}
    config = transformers.PaliGemmaConfig(text_config=TEXT | {"model_type": "gemma"}, vision_config=vision)
    transformers.PaliGemmaForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a causal language model") as caught:
        _ = instsel.Scorer(str(tmp_path), device="cpu").model
    assert len(str(caught.value).splitlines()) == 1
