"""A GPU's fused layers with plain kernels on a processor: what is found, and that a model's own bits come out."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_layers import FAMILIES, build, checked, find_gpu_layers, packed_rows
from own_process import INTERPRETED, assert_passes
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import instsel
from instsel.engine import model_checks
from instsel.kernels import TreeSegments, gpu_layer
from instsel.kernels.decoder_layer import HIDDEN, Sum
from instsel.kernels.gpu_layer import GpuLayer, GpuNorm, GpuStep
from instsel.layers import fused_modules
from instsel.layers.attention import PackState, running
from instsel.layers.attention_parts import AttentionParts
from instsel.layers.feed_forward_parts import FeedForwardParts
from instsel.layers.fused_modules import nearly_equal
from instsel.layers.fused_norms import KnownNorm, find_norm, gpu_norm_forward
from instsel.layers.gpu_layers import gpu_forward
from instsel.layers.whole_layers import OwnCall

pytestmark = pytest.mark.usefixtures("two_threads")


@pytest.fixture(autouse=True)
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_layer, "KERNELS", "reference")
    monkeypatch.setattr(fused_modules, "KERNELS", "reference")


def compare(model: Any) -> tuple[Any, Tensor, Tensor]:
    info, tree = checked(model)
    fused = find_gpu_layers(info, tree)
    return fused, packed_rows(info, tree, fused), packed_rows(info, tree, None)


def kinds(fused: Any) -> set[type]:
    return {type(part) for parts in fused.whole.values() for _, part in parts.parts}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(FAMILIES))
def test_packs_have_the_bits_of_the_models_own_layers(name: str, dtype: torch.dtype) -> None:
    fused, ours, own = compare(build(name, dtype))
    assert len(fused.whole) == 2 and kinds(fused) == {KnownNorm, AttentionParts, FeedForwardParts}
    assert all(parts.leaves for parts in fused.whole.values()) and fused.reasons == {}
    if name == "GPTNeoX":  # torch's layer norm and the order of three summands round otherwise
        assert (ours - own).norm() <= 4 * torch.finfo(dtype).eps * own.norm()
    else:
        assert torch.equal(ours, own)


def test_roundings_are_told_apart() -> None:
    """Negative control: with Llama's roundings Gemma's norm would have other bits, and so would a rotary in bfloat16
    where the model turns in float32."""
    found = {}
    for name in ("Llama", "Gemma2", "Olmo2", "Cohere"):
        fused, *_ = compare(build(name, torch.bfloat16))
        found[name] = {norm.rounds_first for norm in fused.norms.values()}
        wide = {part.wide for p in fused.whole.values() for _, part in p.parts if isinstance(part, AttentionParts)}
        assert wide == {name in ("Cohere", "Olmo2")}
    assert found == {"Llama": {True}, "Gemma2": {False}, "Olmo2": {False}, "Cohere": {False}}


def test_an_activation_that_no_kernel_computes_is_the_models_own() -> None:
    fused, ours, own = compare(build("Llama", torch.bfloat16, hidden_act="relu"))
    parts = [part for p in fused.whole.values() for _, part in p.parts if isinstance(part, FeedForwardParts)]
    assert parts and not any(part.is_known for part in parts)
    assert torch.equal(ours, own)


def test_a_norm_of_another_kind_is_called_as_it_is() -> None:
    model = build("Llama", torch.bfloat16)

    class Rounded(nn.Module):
        """All of it in bfloat16, which no kernel does."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.rand(64).bfloat16()), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))

    other = Rounded()
    assert find_norm(other, "triton") is None and find_norm(other) is not None
    model.model.layers[1].post_attention_layernorm = other
    model.model.norm = Rounded()
    fused, ours, own = compare(model)
    first, last = fused.whole.values()
    assert OwnCall in {type(part) for _, part in last.parts} and first.leaves
    assert not last.leaves, "its rows are read by a norm that adds nothing up"
    assert torch.equal(ours, own)


def test_a_layer_whose_rows_two_read_leaves_nothing() -> None:
    model = build("Llama")
    own_norm, seen = model.model.norm, []
    second = type(own_norm)(64)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = own_norm, second

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return self.first(x) + self.second(x)

    model.model.norm = Both()
    fused, ours, own = compare(model)
    assert seen and [parts.leaves for parts in fused.whole.values()] == [True, False]
    assert torch.equal(ours, own)


def test_only_a_sum_that_adds_becomes_part_of_the_norm_after_it() -> None:
    norm = GpuStep(GpuNorm(*[None] * len(GpuNorm._fields)), HIDDEN, 1)  # type: ignore[arg-type]
    for given, taken in ((Sum(1), True), (Sum(1, factor=0.5), True), (Sum(1, scale=0.5), False), (Sum(1, 0.0), False)):
        layer = GpuLayer.of([given, norm], torch.float32)
        assert layer.steps == ((norm._replace(sum=given),) if taken else (given, norm))


def test_what_nobody_asks_for_is_an_error() -> None:
    state = PackState(TreeSegments.from_lists([0, 1], [[]]))
    x = torch.zeros(1, 1, 4)
    state.leave(x, x[0])
    assert state.left_to(x.clone()) is None, "other hidden states"
    with pytest.raises(RuntimeError, match="never asked"):
        state.leave(x, None)


def test_sinks_are_the_layers_own() -> None:
    more = {"head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}
    model = build("GptOss", **more)
    for layer in model.model.layers:
        nn.init.normal_(layer.self_attn.sinks)
    fused, ours, own = compare(model)
    found = [part for parts in fused.whole.values() for _, part in parts.parts if isinstance(part, AttentionParts)]
    assert len(found) == 2 and all(part.sinks == "sinks" for part in found)
    assert nearly_equal(own, ours)


def test_what_is_left_reaches_whatever_runs_its_own_code() -> None:
    """A layer that is given more than it heeds, and a norm that is given a gate."""
    state, x, added = PackState(TreeSegments.from_lists([0, 3], [[]])), torch.ones(1, 3, 4), torch.full((3, 4), 2.0)
    found: Any = SimpleNamespace(names=["hidden_states"], passed=set(), plain={})
    seen: list[Tensor] = []
    whole: Any = None
    state.leave(x, added)
    with running(state):
        gpu_forward(whole, found, lambda hidden, **_: seen.append(hidden.clone()), x, gate=object())
    assert torch.equal(seen[0], torch.full((1, 3, 4), 3.0)) and state.left is None

    class Gated(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor, gate: Tensor | None = None) -> Tensor:
            return super().forward(hidden_states) if gate is None else super().forward(hidden_states * gate)

    norm, gate = Gated(4), torch.arange(4.0)
    x = torch.arange(12.0).view(1, 3, 4)
    state.leave(x, added)
    with running(state), torch.no_grad():
        got = gpu_norm_forward(norm, KnownNorm("variance_epsilon", 0.0, False))(x, gate)
    assert torch.equal(got, norm((torch.arange(12.0).view(1, 3, 4) + 2) * gate)) and state.left is None


def louder_gates(gate: Tensor, up: Tensor, activation: str, **options: Any) -> Tensor:
    return gate.copy_(1.01 * nn.functional.silu(gate) * up)


@pytest.mark.parametrize("fault", [False, True])
def test_a_kernel_that_is_wrong_is_said_at_load(fault: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_checks, "layer_backend", lambda model: "triton")
    if fault:
        monkeypatch.setattr(gpu_layer, "gate_rows", louder_gates)
    requests = [([3, 4, 5], [6, 7]), ([3, 4, 5], [8]), ([3, 4], [9, 10])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scorer = instsel.Scorer(build("Llama"), device="cpu", dtype="float32", backend="reference")
    found = scorer.model.fused_layers
    assert found is not None and bool(found.whole) != fault
    assert found.reasons == ({"LlamaDecoderLayer": "the kernels give other rows than its own code"} if fault else {})
    got = instsel.score_batch(scorer, requests).sum_logprob
    plain = build("Llama")
    with torch.inference_mode():
        for (context, answer), score in zip(requests, got, strict=True):
            logits = plain(torch.tensor([context + answer])).logits[0].double().log_softmax(-1)
            wanted = sum(float(logits[len(context) - 1 + i, token]) for i, token in enumerate(answer))
            assert abs(float(score) - wanted) <= 1e-4 * abs(wanted)


@pytest.mark.long
def test_interpreted() -> None:
    """In a process of its own: the interpreter stays on once it is on."""
    pytest.importorskip("triton")
    assert_passes("interpreted_gpu_layers.py", INTERPRETED)
