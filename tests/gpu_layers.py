"""Tiny models of several families, and their packs with what stands between products fused as on a GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from instsel.engine.model import CausalModel
from instsel.engine.model_session import ModelSession
from instsel.engine.sharing_checks import CheckedTree
from instsel.engine.wrapped_models import unwrap
from instsel.layers.attention import NodeCache
from instsel.layers.fused_layers import FusedLayers
from instsel.planning.layout import find_spans, lay_out
from instsel.planning.packing import plan_steps

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True},
    "Qwen3": {"head_dim": 16},  # norms of heads
    "Gemma2": {"head_dim": 16},  # (1 + w) in float32, norms before and after, soft caps
    # Two rotary embeddings, and a window shorter than a path.
    "Gemma3": {"head_dim": 16, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "Olmo2": {},  # norms after, and of all heads as one
    "Cohere": {},  # one centred norm, both parts beside each other, rotary of neighbours in float32
    "GPTNeoX": {},  # layer norm with a bias, heads of queries, keys and values in turns
    "Phi3": {},  # merged products
    "Granite": {"residual_multiplier": 0.22},
    "Glm": {"head_dim": 16},  # half of each head turned
}


def build(name: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    torch.manual_seed(0)
    kind = "Gemma3Text" if name == "Gemma3" else name
    given = {**SMALL, **FAMILIES.get(name, {}), **more}
    if "layer_types" in given:
        given["layer_types"] = given["layer_types"][: given["num_hidden_layers"]]
    config = getattr(transformers, f"{kind}Config")(**given)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for module in model.modules():  # norms start as ones, which would hide a forgotten weight
        if type(module).__name__.endswith("Norm"):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
    return model.to(dtype)


def checked(model: Any) -> tuple[CausalModel, CheckedTree]:
    info = CausalModel(unwrap(model), backend="reference")
    session = ModelSession(info)
    info.signature = session.replica.signature
    return info, CheckedTree(info, session, np.arange(3, 27))


def find_gpu_layers(info: CausalModel, tree: CheckedTree) -> FusedLayers:
    with tree.session.inference_context(), tree.session.ready():
        return FusedLayers(tree.session.replica, partial(tree.run_first_pack, tree.session), "triton")


def packed_rows(info: CausalModel, tree: CheckedTree, fused: FusedLayers | None) -> Tensor:
    """Hidden states of all packs of a tree, the later of which go on from what the first kept."""
    session = ModelSession(info, fused)
    assert session.as_checked
    found, caches = [], dict[int, NodeCache]()
    spans = find_spans(tree._tree, np.ones(len(tree.paths), np.int64))
    steps = list(plan_steps(tree._tree, 16))
    assert any(step.cached for step in steps)
    with session.inference_context(), session.ready():
        for step in steps:
            layout = lay_out(tree._tree, spans, step)
            rows, state = session.forward_pack(layout, [caches[node] for node in step.cached])
            caches.update(state.keys_values)
            found.append(rows.clone())
    session.close()
    return torch.cat(found)
