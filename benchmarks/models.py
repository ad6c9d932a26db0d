"""Models of real shapes with seeded random weights: speed does not depend on what the weights are.

A name that ends in "-cut" has the real widths and fewer layers, and of a mixture fewer experts of which fewer are
chosen: as many rows meet an expert as in the whole model. A folder stands for the checkpoint in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    Lfm2Config,
    LlamaConfig,
    Olmo2Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

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
    "lfm2-350m": (
        Lfm2Config,
        {
            "vocab_size": 65_536,
            "hidden_size": 1024,
            "intermediate_size": 6656,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "layer_types": ["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(16)],
            "max_position_embeddings": 128_000,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3.5-0.8b": (
        Qwen3_5TextConfig,
        {
            "vocab_size": 248_320,
            "hidden_size": 1024,
            "intermediate_size": 3584,
            "num_hidden_layers": 24,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 16,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262_144,
            "tie_word_embeddings": True,
        },
    ),
    "gemma-3-270m": (
        Gemma3TextConfig,
        {
            "vocab_size": 262_144,
            "hidden_size": 640,
            "intermediate_size": 2048,
            "num_hidden_layers": 18,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 256,
            "sliding_window": 512,
            "max_position_embeddings": 32_768,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2-1b-cut": (
        Olmo2Config,
        {
            "vocab_size": 100_352,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "phi-3-mini-cut": (
        Phi3Config,
        {
            "vocab_size": 32_064,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_hidden_layers": 4,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "smollm3-3b-cut": (
        SmolLM3Config,
        {
            "vocab_size": 128_256,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "max_position_embeddings": 65_536,
            "tie_word_embeddings": True,
        },
    ),
    "olmoe-1b-7b-cut": (
        OlmoeConfig,
        {
            "vocab_size": 50_304,
            "hidden_size": 2048,
            "intermediate_size": 1024,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
    ),
    "qwen3-30b-a3b-cut": (
        Qwen3MoeConfig,
        {
            "vocab_size": 32_064,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 3,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 32,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": False,
        },
    ),
    "gpt-oss-20b-cut": (
        GptOssConfig,
        {
            "vocab_size": 16_384,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": 2,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 16,
            "num_experts_per_tok": 2,
            "sliding_window": 128,
            "max_position_embeddings": 131_072,
            "tie_word_embeddings": False,
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


def known(name: str) -> str:
    """A name of a shape, or a folder with a checkpoint; ValueError for anything else."""
    if name not in _CONFIGS and not Path(name).is_dir():
        raise ValueError(f"expected a folder or one of {', '.join(NAMES)}, got {name}")
    return name


def vocabulary(name: str) -> int:
    """Tokens that a model by name knows."""
    if name not in _CONFIGS:
        return int(AutoConfig.from_pretrained(name).get_text_config().vocab_size)
    return int(_CONFIGS[name][1]["vocab_size"])


def sizes(name: str) -> tuple[int, int]:
    """Hidden and intermediate size of a model by name."""
    settings = _CONFIGS[name][1]
    return settings["hidden_size"], settings["intermediate_size"]


def make_config(name: str) -> Any:
    """The configuration of a shape by name."""
    kind, settings = _CONFIGS[name]
    size = settings["hidden_size"] ** -0.5
    return kind(**settings, initializer_range=size, bos_token_id=0, eos_token_id=1, pad_token_id=None)


def make_model(name: str, dtype: str, *, device: str = "cpu", seed: int = 0) -> PreTrainedModel:
    """A model by name in `dtype`, its weights random numbers of bfloat16, as checkpoints are published.

    They are normal with a standard deviation of 1 / sqrt(hidden), what adds to the residual stream a further factor
    of 1 / sqrt(2 layers) smaller, as GPT-2 begins: then rounding does not grow from layer to layer.

    transformers' default of 0.02 would give scores that hardly differ between requests, with which no check of one
    way of scoring against another means much.
    """
    if name not in _CONFIGS:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), local_files_only=True)
        return loaded.to(device).eval()
    config, settings = make_config(name), _CONFIGS[name][1]
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight", "w2.weight", ".down_proj")):
            parameter.data.mul_((2 * config.num_hidden_layers) ** -0.5)
        elif parameter_name.endswith("embed_tokens.weight") and hasattr(config, "num_experts_per_tok"):
            # As large as what the layers add: an expert that rounding chose or left out would change everything else.
            parameter.data.mul_(settings["hidden_size"] ** 0.5)
    # Not the buffers: a checkpoint that is loaded has its rotary frequencies in float32 whatever its dtype.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).to(getattr(torch, dtype))
    model = model.eval()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # what the float32 weights took, for other processes
    return model
