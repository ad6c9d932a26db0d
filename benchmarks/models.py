"""Models of real shapes with seeded random weights: speed does not depend on what the weights are."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

_CONFIGS: dict[str, tuple[type, dict[str, Any]]] = {
    "tiny": (
        LlamaConfig,
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
        },
    ),
    "smollm2-135m": (
        LlamaConfig,
        {
            "vocab_size": 49_152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-0.5b": (
        Qwen2Config,
        {
            "vocab_size": 151_936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5-1.5b": (
        Qwen2Config,
        {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3-0.6b": (
        Qwen3Config,
        {
            "vocab_size": 151_936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.1-8b": (
        LlamaConfig,
        {
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": False,
        },
    ),
}
NAMES = tuple(_CONFIGS)


def vocabulary(name: str) -> int:
    """Tokens that a model by name knows."""
    return int(_CONFIGS[name][1]["vocab_size"])


def sizes(name: str) -> tuple[int, int]:
    """Hidden and intermediate size of a model by name."""
    settings = _CONFIGS[name][1]
    return settings["hidden_size"], settings["intermediate_size"]


def make_model(name: str, dtype: str, *, device: str = "cpu", seed: int = 0) -> PreTrainedModel:
    """A model by name in `dtype`, its weights random numbers of bfloat16, as checkpoints are published.

    They are normal with a standard deviation of 1 / sqrt(hidden), what adds to the residual stream a further factor
    of 1 / sqrt(2 layers) smaller, as GPT-2 begins: then rounding does not grow from layer to layer.

    transformers' default of 0.02 would give scores that hardly differ between requests, with which no check of one
    way of scoring against another means much.
    """
    kind, settings = _CONFIGS[name]
    config = kind(
        **settings, initializer_range=settings["hidden_size"] ** -0.5, bos_token_id=0, eos_token_id=1, pad_token_id=None
    )
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.data.mul_((2 * config.num_hidden_layers) ** -0.5)
    model = model.to(torch.bfloat16).to(getattr(torch, dtype)).eval()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # what the float32 weights took, for other processes
    return model
