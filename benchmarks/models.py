"""Models of real shapes with seeded random weights: speed does not depend on what the weights are.

A name is one of `model_shapes`; a folder stands for the checkpoint in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from model_shapes import SHAPES
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)

NAMES = tuple(SHAPES)


def known(name: str) -> str:
    """A name of a shape, or a folder with a checkpoint; ValueError for anything else."""
    if name not in SHAPES and not Path(name).is_dir():
        raise ValueError(f"expected a folder or one of {', '.join(NAMES)}, got {name}")
    return name


def vocabulary(name: str) -> int:
    """Tokens that a model by name knows."""
    if name not in SHAPES:
        return int(AutoConfig.from_pretrained(name).get_text_config().vocab_size)
    return int(SHAPES[name][1]["vocab_size"])


def sizes(name: str) -> tuple[int, int]:
    """Hidden and intermediate size of a model by name."""
    settings = SHAPES[name][1]
    return settings["hidden_size"], settings["intermediate_size"]


def make_config(name: str) -> Any:
    """The configuration of a shape by name."""
    kind, settings = SHAPES[name]
    size = settings["hidden_size"] ** -0.5
    return kind(**settings, initializer_range=size, bos_token_id=0, eos_token_id=1, pad_token_id=None)


def make_model(name: str, dtype: str, *, device: str = "cpu", seed: int = 0) -> PreTrainedModel:
    """A model by name in `dtype`, its weights random numbers of bfloat16, as checkpoints are published.

    They are normal with a standard deviation of 1 / sqrt(hidden), what adds to the residual stream a further factor
    of 1 / sqrt(2 layers) smaller, as GPT-2 begins: then rounding does not grow from layer to layer.

    transformers' default of 0.02 would give scores that hardly differ between requests, with which no check of one
    way of scoring against another means much.
    """
    if name not in SHAPES:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype), local_files_only=True)
        return loaded.to(device).eval()
    config, settings = make_config(name), SHAPES[name][1]
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
