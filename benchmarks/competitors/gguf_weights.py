"""The weights of a transformers model as a GGUF file, without a vocabulary: what llama.cpp reads.

What llama.cpp's own conversion does, for the families of `ARCHITECTURES`, with a model in memory in place of a
checkpoint. Needs the package `gguf`. Not gpt-oss: llama.cpp rounds the ends of yarn's ramp, which that model does not,
and gives it other scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

ARCHITECTURES = {  # by transformers' model type
    "gemma3_text": "GEMMA3",
    "lfm2": "LFM2",
    "llama": "LLAMA",
    "olmoe": "OLMOE",
    "qwen2": "QWEN2",
    "qwen3_5_text": "QWEN35",
}
_FLOAT32 = ("ffn_gate_inp.weight", "conv.weight", "conv1d.weight")  # as vectors are, whatever the model's dtype

Parts = Iterator[tuple[str, torch.Tensor]]


def write_gguf(model: PreTrainedModel, path: Path) -> None:
    """Writes a model of one of the families, products in the model's own dtype.

    ValueError where the family is not one of `ARCHITECTURES`.
    """
    import gguf

    config = model.config
    if config.model_type not in ARCHITECTURES:
        raise ValueError(f"model: expected one of {', '.join(ARCHITECTURES)}, got {config.model_type}")
    architecture = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    _write_sizes(writer, model)
    _SETTINGS.get(config.model_type, lambda writer, config: None)(writer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for parameter_name, weight in model.named_parameters():
        for name, values in _parts(parameter_name, weight.detach().float(), config):
            written = names.get_name(name, try_suffixes=(".weight", ".bias"))
            whole = values.ndim == 1 or weight.dtype == torch.float32 or written.endswith(_FLOAT32)
            stored = (values if whole else values.bfloat16().contiguous().view(torch.uint8)).contiguous().numpy()
            writer.add_tensor(written, stored, raw_dtype=None if whole else gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _write_sizes(writer: Any, model: PreTrainedModel) -> None:
    """What every family has."""
    config = model.config
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    heads = config.num_key_value_heads
    if config.model_type == "lfm2":  # a layer without attention is one without keys
        heads = [heads if kind == "full_attention" else 0 for kind in config.layer_types]
        inner = model.model.layers[0].feed_forward.w1.weight.shape[0]  # the configuration's may be rounded there
    else:
        inner = config.intermediate_size
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config.norm_eps if config.model_type == "lfm2" else config.rms_norm_eps)
    writer.add_rope_dimension_count(int(_head_size(config) * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def _write_gemma(writer: Any, config: Any) -> None:
    writer.add_sliding_window(config.sliding_window)


def _write_lfm2(writer: Any, config: Any) -> None:
    writer.add_shortconv_l_cache(config.conv_L_cache)


def _write_olmoe(writer: Any, config: Any) -> None:
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


def _write_qwen3_5(writer: Any, config: Any) -> None:  # of as many value as key heads
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(config.layer_types.index("full_attention") + 1)
    writer.add_rope_dimension_sections([11, 11, 10, 0])  # of no effect on text, but asked for


_SETTINGS: dict[str, Callable[[Any, Any], None]] = {
    "gemma3_text": _write_gemma,
    "lfm2": _write_lfm2,
    "olmoe": _write_olmoe,
    "qwen3_5_text": _write_qwen3_5,
}


def _parts(name: str, values: torch.Tensor, config: Any) -> Parts:
    """What a parameter is written as, under names that the package maps to llama.cpp's."""
    if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
        # llama.cpp turns neighbouring dimensions of a Llama's heads against each other, transformers halves.
        head_size = _head_size(config)
        yield name, values.view(-1, 2, head_size // 2, values.shape[-1]).transpose(1, 2).reshape(values.shape)
    elif config.model_type in ("gemma3_text", "qwen3_5_text") and name.endswith("norm.weight"):
        yield name, values if "linear_attn" in name else values + 1  # theirs multiplies by the weight alone
    elif "conv" in name and values.ndim == 3:  # [channels, 1, kernel]
        yield name, values.squeeze(1)
    elif name.endswith(".A_log"):
        yield name, -values.exp()
    elif name.endswith(".dt_bias"):
        yield name.replace(".dt_bias", ".dt_proj.bias"), values
    elif "experts.gate_up" in name:  # [experts, gate and up, in]
        for part, weight in zip(("gate", "up"), values.chunk(2, dim=1), strict=True):
            yield name.replace("gate_up", part) + ".weight", weight
    else:
        yield name + ".weight" * (".experts." in name), values
