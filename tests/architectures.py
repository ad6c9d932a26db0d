"""Tiny random models of the architectures that transformers calls causal language models.

A configuration gets every size that it knows of from one table; what an architecture needs besides stands in
`SETTINGS`. Limits on lengths (windows, chunks, original contexts) are 40 tokens: more than the engine runs when it
checks a model at load, fewer than the longest requests of the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 211
LIMIT = 40
LARGEST = 20_000_000  # parameters


def _same(value: int | float, names: str) -> dict[str, int | float]:
    return dict.fromkeys(names.split(), value)


SIZES: dict[str, Any] = {
    **_same(VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    **_same(64, "hidden_size n_embd d_model embed_dim word_embed_proj_dim lru_width hidden_dim dim_model"),
    **_same(96, "intermediate_size n_inner ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_ff dim_ff dff"),
    **_same(4, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers"),
    **_same(4, "num_attention_heads n_head n_heads num_heads attention_heads linear_num_heads"),
    **_same(4, "decoder_attention_heads encoder_attention_heads"),
    **_same(2, "num_key_value_heads num_kv_heads n_kv_heads"),
    **_same(16, "head_dim d_kv v_head_dim qk_nope_head_dim kv_lora_rank linear_key_head_dim linear_value_head_dim"),
    **_same(16, "linear_head_dim"),
    **_same(256, "max_position_embeddings n_positions max_seq_len max_seq_length seq_length context_length n_ctx"),
    **_same(256, "max_target_positions"),
    **_same(0.15, "initializer_range init_std"),
    **_same(4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    **_same(2, "num_experts_per_tok moe_topk moe_k"),
    **_same(1, "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group first_k_dense_replace"),
    **_same(32, "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size"),
    **_same(32, "expert_ffn_hidden_size mamba_d_head mamba_head_dim mamba_headdim"),
    **_same(LIMIT, "sliding_window window_size local_attention attention_window_size attention_chunk_size"),
    **_same(8, "rotary_dim qk_rope_head_dim mamba_d_state state_size ssm_state_size"),
    **_same(4, "mamba_d_conv mamba_n_heads mamba_num_heads time_step_rank mamba_dt_rank linear_num_value_heads"),
    **_same(2, "mamba_expand expand linear_num_key_heads type_vocab_size"),
    **_same(1, "mamba_n_groups n_groups n_mamba_heads"),
    **_same(16, "mamba_chunk_size chunk_size hidden_size_per_layer_input"),
    "q_lora_rank": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LENGTHS = {name for name, size in SIZES.items() if size in (LIMIT, 256)}
_DECODERS_OF_PAIRS = (
    *("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "plbart", "pegasus"),
)
_ENCODERS = (
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert"),
    *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl"),
)
_LAYERS_OF_SIX = {"num_hidden_layers": 6, "num_kv_shared_layers": 2}
_TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"] * 3}
SETTINGS: dict[str, dict[str, Any]] = {
    **{kind: {"is_decoder": True, "encoder_layers": 4} for kind in _DECODERS_OF_PAIRS},
    **{kind: {"is_decoder": True} for kind in _ENCODERS},
    "bamba": {"attn_layer_indices": [1, 3]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"topk_method": "greedy"},
    "dory": {"hidden_size": 128},  # it normalises its weights: only more of them spread its scores
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        **_LAYERS_OF_SIX,
        **_TWO_KINDS,
        "activation_sparsity_pattern": [0.0] * 6,
        "intermediate_size": [96] * 6,
    },
    "gemma4_text": {**_LAYERS_OF_SIX, **_TWO_KINDS, "global_head_dim": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "inkling_text": {"logits_mup_width_multiplier": 1.0},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "use_mamba_kernels": False},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"] * 2},
    "mamba2": {"num_heads": 4, "head_dim": 32},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"] * 2,
        "index_n_heads": 2,
        "index_head_dim": 16,
    },
    "nemotron": {"num_key_value_heads": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False, "lsh_num_chunks_after": 0},
    "rwkv": {"attention_hidden_size": 64},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "zaya": {"num_experts_per_tok": 1},
}
ARCHITECTURES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


class NotSmallError(Exception):
    """The table above does not make a small model of this architecture."""


def build_model(
    kind: str, settings: dict[str, Any] | None = None, *, seed: int = 0, default_lengths: bool = False
) -> Any:
    """A model of the architecture in float32; NotSmallError where it cannot be made that small here.

    default_lengths  whether windows, chunks and contexts are those of the architecture's own defaults
    """
    kind_class = CONFIG_MAPPING[kind]
    extra = SETTINGS.get(kind, {}) | (settings or {})
    try:
        default = kind_class()
        chosen = _sizes_for(default)
        if default_lengths:
            chosen |= {name: getattr(default, name) for name in chosen.keys() & _LENGTHS}
        chosen |= extra
        for name in default.sub_configs:
            if (part := getattr(default, name, None)) is not None:
                chosen[name] = _sizes_for(part)
        config = kind_class(**chosen)
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[kind_class]
        with torch.device("meta"):
            parameters = sum(p.numel() for p in model_class(config).parameters())
        if parameters > LARGEST:
            raise NotSmallError(f"{kind}: {parameters} parameters")
        torch.manual_seed(seed)
        model = model_class(config).eval()
        _spread(model, seed)
        with torch.inference_mode():
            model(input_ids=torch.arange(3, 30)[None])
    except Exception as error:
        raise NotSmallError(f"{kind}: {type(error).__name__}: {error}") from error
    return model


def _sizes_for(default: Any) -> dict[str, Any]:
    known = set(default.to_dict()) | set(default.attribute_map)
    out = {
        k: v for k, v in SIZES.items() if k in known and default.attribute_map.get(k, k) in (k, *(known - SIZES.keys()))
    }
    if "qk_rope_head_dim" in known:  # latent attention: every head has its own key
        out |= {name: value for name, value in (("head_dim", 8), ("num_key_value_heads", 4)) if name in known}
    if types := default.to_dict().get("layer_types"):
        kinds = list(dict.fromkeys(types))
        out["layer_types"] = (kinds * 4)[:4]
    return out


@torch.no_grad()
def _spread(model: Any, seed: int) -> None:
    """Weights wide enough that attention is far from uniform, whatever the architecture's own initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and parameter.is_floating_point():
            scale = 0.5 if "embed" in name or "wte" in name or "wpe" in name else 1.2 / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        elif parameter.ndim == 1 and ("norm" in name or "bias" in name):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
