"""Fused layers: found by what they compute, equal to the model's own, and put on a replica alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from architectures import build_model
from random_models import means_one_by_one
from recorded_layers import find_layers
from transformers.models.bamba.modeling_bamba import BambaRMSNormGated
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNormGated

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.kernels.native_arrays import has_bfloat16_products
from instsel.layers import fused_layers
from instsel.layers.fused_norms import find_norm, norm_forward
from instsel.layers.replica import Replica

pytestmark = pytest.mark.usefixtures("two_threads")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
}
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_products(), reason="needs a processor with bfloat16 arithmetic")
IDS = torch.randint(0, 97, (1, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def products_by_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether products of float32 are our own would otherwise hang on a measurement of small shapes."""
    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "mkl")


def build(name: str, **more: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for module in model.modules():  # norms start as ones, which would hide a forgotten weight
        if type(module).__name__.endswith("RMSNorm"):
            torch.nn.init.normal_(module.weight, 1.0, 0.3)
    return model


def fused_replica(model: torch.nn.Module) -> tuple[Replica, set[int]]:
    """A replica with the fused layers found for it, and the places of these among its modules."""
    fused = find_layers(model)
    replica = Replica(model)
    fused.put_on(replica)
    return replica, {*fused.norms, *fused.gates, *fused.products, *fused.whole}


def found(model: torch.nn.Module) -> set[str]:
    replica, places = fused_replica(model)
    return {type(replica.modules[place]).__name__ for place in places}


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("Llama", {}, {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer"}),
        ("Qwen3", {"head_dim": 16}, {"Qwen3RMSNorm", "Qwen3MLP", "Qwen3DecoderLayer"}),
        ("Gemma2", {"head_dim": 16}, {"Gemma2RMSNorm", "Gemma2MLP", "Gemma2DecoderLayer"}),
        ("Cohere", {"pad_token_id": 0}, {"CohereLayerNorm", "CohereMLP", "CohereDecoderLayer"}),
        ("GPTNeoX", {}, {"LayerNorm", "GPTNeoXLayer"}),
    ],
)
def test_what_is_found_computes_the_same(name: str, more: dict[str, object], expected: set[str]) -> None:
    model = build(name, **more)
    replica, _ = fused_replica(model)
    assert found(model) == expected
    with torch.inference_mode():
        own = model(IDS).logits.double()
        ours = replica.root(IDS).logits.double()  # type: ignore[operator]
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
        ours = fused_replica(half)[0].root(IDS).logits.float()  # type: ignore[operator]
    assert (ours - exact).norm() <= 1.1 * (own - exact).norm()


@needs_bfloat16
def test_products_in_bfloat16_are_found_and_a_row_is_the_same_bits_in_any_company() -> None:
    model = build("Llama").bfloat16()
    assert found(model) == {"LlamaRMSNorm", "LlamaMLP", "LlamaDecoderLayer", "Linear"}
    replica, _ = fused_replica(model)
    rows = torch.randn(70, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = replica.of(model.model.layers[0])
    projection, mlp = layer.self_attn.q_proj, layer.mlp
    with torch.inference_mode():
        for module in (projection, mlp):
            together = module(rows[None])[0]
            for chosen in ([0], [69], list(range(5, 38)), list(range(70))[::-1]):
                assert torch.equal(module(rows[chosen][None])[0], together[chosen])


@needs_bfloat16
def test_a_projection_with_something_more_is_called() -> None:
    """A hook on a projection must see it called; a projection of another kind must not be read as a bare product."""
    seen: list[str] = []
    model = build("Llama").bfloat16()
    mlp = model.model.layers[0].mlp
    mlp.up_proj.register_forward_hook(lambda *_: seen.append("up"))

    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    other = model.model.layers[1].mlp
    doubled = Doubled(64, 96, bias=False).bfloat16()
    doubled.weight.data.copy_(other.gate_proj.weight.data)
    other.gate_proj = doubled
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.inference_mode():
        expected = [mlp(x).float(), other(x).float()]
        replica, _ = fused_replica(model)
        seen.clear()
        got = [replica.of(mlp)(x).float(), replica.of(other)(x).float()]
    assert seen == ["up"]
    for own, ours in zip(expected, got, strict=True):
        assert (own - ours).norm() <= 0.02 * own.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.1, 60.0])
def test_what_is_added_to_a_norms_weight_is_told_whatever_the_weight(size: float, dtype: torch.dtype) -> None:
    """Weights of Gemma's size are so large that 1 more of them is a rounding of bfloat16."""
    for name, offset in (("Llama", 0.0), ("Gemma", 1.0)):
        norm: Any = build(name, head_dim=16).to(dtype).model.norm
        torch.nn.init.normal_(norm.weight, size, 0.1 * size)
        before = norm.weight.clone()
        found = find_norm(norm)
        assert found is not None and found.offset == offset and not found.centred
        assert torch.equal(norm.weight, before)


def test_a_norm_with_a_gate_runs_its_own_code_where_it_is_given_one() -> None:
    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = torch.nn.Parameter(torch.rand(64)), 1e-6

        def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
            x = x if gate is None else x * torch.nn.functional.silu(gate)
            return torch.nn.functional.rms_norm(x, (64,), self.weight, self.eps)

    norm = Gated()
    found = find_norm(norm)
    assert found is not None
    x, gate = torch.rand(2, 3, 64)
    with torch.inference_mode():
        assert torch.equal(norm_forward(norm, found)(x, gate), norm(x, gate))
        assert torch.allclose(norm_forward(norm, found)(x), norm(x), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_that_is_gated_is_the_formula(dtype: torch.dtype) -> None:
    """That of Qwen3.5's mixers, against float64; with another gate, or the gate before the norm, it is another."""
    norm: Any = Qwen3_5RMSNormGated(48).to(dtype)
    torch.nn.init.normal_(norm.weight, 1.0, 0.3)
    known = find_norm(norm, gated=True)
    assert known is not None and find_norm(norm) is None
    both = torch.randn(2, 9, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    x, gate = both[..., :48], both[..., 48:]  # rows with gaps
    before = gate.clone()
    a, b, w = x.double(), gate.double(), norm.weight.double()
    exact = a * (a.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w * b * b.sigmoid()
    bound = 1e-6 + (1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps) * exact.abs()
    with torch.inference_mode():
        ours = norm_forward(norm, known, gated=True)(x, gate)
        assert ((ours.double() - exact).abs() <= bound).all() and ours.dtype == dtype
        assert torch.equal(gate, before)
        assert not ((norm_forward(norm, known, gated=True)(x, -gate).double() - exact).abs() <= bound).all()
        # What is not expected is the module's own.
        assert torch.equal(norm_forward(norm, known, gated=True)(x, gate.double()), norm(x, gate.double()))
    norm.activation = "sigmoid"
    assert find_norm(norm, gated=True) is None
    gated_before = BambaRMSNormGated(48, group_size=48)
    assert find_norm(gated_before, gated=True) is None and find_norm(gated_before) is not None


def test_gated_norms_of_a_model_are_found() -> None:
    model = build_model("qwen3_5_text")
    fused, replica = find_layers(model), Replica(model)
    found = [replica.modules[place] for place in fused.gated_norms]
    assert [type(norm) for norm in found] == [Qwen3_5RMSNormGated] * model.config.layer_types.count("linear_attention")
    fused.put_on(replica)
    assert all(norm in replica.ours for norm in found)


def test_what_is_fused_and_gives_other_rows_is_not_used_which_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last norm, which no whole layer is held against."""
    louder = lambda module, known, **more: lambda x: 1.1 * norm_forward(module, known, **more)(x)  # noqa: E731
    monkeypatch.setattr(fused_layers, "norm_forward", louder)
    with pytest.warns(ScoringWarning, match=r"its layers run their own code \(the kernels move its rows by \d"):
        loaded = instsel.Scorer(build("Llama"), device="cpu", dtype="float32").model
    assert loaded.fused_layers is None


@pytest.mark.parametrize("how", ["of its class", "put in by somebody"])
def test_a_norm_that_computes_something_else_is_not_taken(how: str) -> None:
    """Negative control: recognised by its name it would give wrong numbers; a forward put in would be thrown away."""
    model = build("Llama")
    for layer in model.model.layers:
        norm = layer.input_layernorm
        forward = type(norm).forward
        if how == "of its class":
            louder = {"forward": lambda self, x, forward=forward: forward(self, x) * 1.01}
            norm.__class__ = type("LouderNorm", (type(norm),), louder)
        else:
            norm.forward = lambda x, norm=norm, forward=forward: forward(norm, x)
    replica, places = fused_replica(model)
    taken = {id(replica.modules[place]) for place in places}
    layers = [replica.of(layer) for layer in model.model.layers]
    assert all(id(layer.input_layernorm) not in taken for layer in layers)
    assert all(id(layer.post_attention_layernorm) in taken for layer in layers)
    put_in = how == "put in by somebody"
    assert all((id(layer) in taken) != put_in for layer in layers), "with the norm called as it is, or not at all"
    assert all(("forward" in vars(layer.input_layernorm)) == put_in for layer in model.model.layers)


class LimitedNetwork(torch.nn.Module):
    """A gated network whose activations are held within a limit, as DeepSeek V4's and GLM-5's are."""

    def __init__(self, own: Any, limit: float) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = own.gate_proj, own.up_proj, own.down_proj
        self.act_fn, self.limit = own.act_fn, limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x).clamp(max=self.limit), self.up_proj(x).clamp(-self.limit, self.limit)
        return self.down_proj(self.act_fn(gate) * up)


@pytest.mark.parametrize("kind", ["llama", "deepseek_v4"])
def test_a_limit_of_activations_that_few_tokens_reach_is_kept(kind: str) -> None:
    """Tokens with one large feature, that the checks at load do not meet, go beyond it; all others stay below."""
    model, limit = build_model(kind), 15.0
    outliers, feature = [200, 201], 5
    with torch.no_grad():
        model.get_input_embeddings().weight[outliers, feature] = 50.0
        for layer in model.model.layers:
            layer.mlp = LimitedNetwork(layer.mlp, limit) if kind == "llama" else layer.mlp
            network = getattr(layer.mlp, "shared_experts", layer.mlp)
            network.limit = limit
            network.gate_proj.weight[:, feature] = 5.0
    usual, beyond = ([1, 17, 3], [7, 8]), ([1, outliers[0], 3, outliers[1]], [9, 10])
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    scores = instsel.score_batch(scorer, [usual, beyond]).mean_logprob
    assert np.abs(scores - means_one_by_one(model, [usual, beyond], float64=False)).max() <= 3e-5
    for layer in model.model.layers:
        getattr(layer.mlp, "shared_experts", layer.mlp).limit = 1e9
    without = means_one_by_one(model, [usual, beyond], float64=False)
    assert abs(scores[1] - without[1]) > 1e-3, "the limit has an effect"
