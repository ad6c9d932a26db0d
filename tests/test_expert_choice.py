"""A mixture's check at load in half precision does not depend on which of two like experts rounding chooses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import build_model
from torch import nn

import instsel
from instsel.engine.model_session import ModelSession
from instsel.layers.expert_choice import fixed_choice

SIXTEEN = {"num_experts": 16, "num_local_experts": 16}


# In these, rounding chooses other experts along the tree or in fused layers: what was right was not used.
@pytest.mark.parametrize(("kind", "seed"), [("qwen3_moe", 3), ("gpt_oss", 1)])
def test_experts_that_rounding_chooses_keep_no_layer_from_running_whole(kind: str, seed: int) -> None:
    model = build_model(kind, SIXTEEN, seed=seed).to(torch.bfloat16)
    loaded = instsel.Scorer(model, device="cpu").model
    assert loaded.shareable_length is None and loaded.fused_layers is not None
    session = ModelSession(loaded)
    assert len(session.whole_layers) == loaded.config.num_hidden_layers
    assert all(vars(module).get("forward") is None for module in model.modules())
    session.close()


class _Experts(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 5.0, dtype=dtype))

    def forward(self, x: Any, top_k_index: Any, top_k_weights: Any) -> Any:
        return x * (self.weight[top_k_index] * top_k_weights).sum(-1, keepdim=True)


def test_the_first_experts_are_taken_with_one_weight_and_the_module_is_left_as_it_was() -> None:
    x, chosen = torch.ones(3, 2), torch.tensor([[3, 1], [2, 0], [1, 2]])
    weights = torch.tensor([[0.9, 0.1]]).expand(3, 2)
    half, full = _Experts(torch.bfloat16), _Experts(torch.float32)
    own = [experts(x, chosen, weights) for experts in (half, full)]
    with fixed_choice([half, full, nn.Linear(2, 2)]):
        assert torch.equal(half(x, chosen, weights), torch.full_like(x, (1 + 2) / 2))
        assert torch.equal(full(x, chosen, weights), own[1])  # float32 keeps its own choice
    with pytest.raises(KeyError), fixed_choice([half]):
        raise KeyError
    assert "forward" not in vars(half) and torch.equal(half(x, chosen, weights), own[0])
