"""Which decoder layers run as a whole, that they give the model's own numbers, and what keeps one from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from random_models import means_one_by_one
from recorded_layers import find_layers
from test_fused_layers import build

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession
from instsel.kernels import layer_attention, layer_memory
from instsel.kernels.attention_kinds import AttentionOptions
from instsel.kernels.decoder_layer import DecoderLayer
from instsel.layers import whole_layers
from instsel.layers.attention_parts import AttentionParts

pytestmark = pytest.mark.usefixtures("two_threads")

TOLERANCE = 2e-5


@pytest.fixture(autouse=True)
def products_by_mkl(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that bits do not hang on a measurement."""
    monkeypatch.setenv("INSTSEL_FLOAT_PRODUCT", "mkl")


def calls_found(model: torch.nn.Module) -> list[AttentionOptions]:
    """What attention is asked for by the layers that are nothing but kernels."""
    found = [[part for _, part in layer.parts] for layer in find_layers(model).whole.values()]
    found = [parts for parts in found if not any(isinstance(part, whole_layers.OwnCall) for part in parts)]
    return [part.call for parts in found for part in parts if isinstance(part, AttentionParts)]


def requests(seed: int = 7) -> list[tuple[list[int], list[int]]]:
    """Sequences of up to 60 tokens that share prefixes of several lengths."""
    rng = np.random.default_rng(seed)
    roots = [rng.integers(3, 97, size).tolist() for size in (30, 7)]
    return [
        (roots[i % 2][: int(rng.integers(5, 31))] + rng.integers(3, 97, 4).tolist(), rng.integers(3, 97, 9).tolist())
        for i in range(24)
    ]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the layers that run as a whole."""
    seen: list[int] = []
    run = DecoderLayer.forward

    def counted(self: DecoderLayer, hidden: torch.Tensor, *more: Any) -> None:
        seen.append(len(hidden))
        run(self, hidden, *more)

    monkeypatch.setattr(DecoderLayer, "forward", counted)
    return seen


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("Llama", {}, [(0.25, None, None)] * 2),
        ("Qwen2", {}, [(0.25, None, None)] * 2),  # with biases
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            [(0.25, None, None), (0.25, 8, None)],
        ),
        ("Qwen3", {"head_dim": 16}, [(0.25, None, None)] * 2),  # with norms of heads
        ("Mistral", {"sliding_window": 8}, [(0.25, 8, None)] * 2),
        ("Granite", {"attention_multiplier": 0.4}, [(0.4, None, None)] * 2),
        ("Granite", {"residual_multiplier": 0.3}, [(1.0, None, None)] * 2),
        ("SmolLM3", {"no_rope_layers": [1, 0], "pad_token_id": 0}, [(0.25, None, None)] * 2),  # one without positions
        ("Gemma2", {"head_dim": 16, "query_pre_attn_scalar": 16}, [(0.25, 4096, 50.0), (0.25, None, 50.0)]),
    ],
)
def test_what_is_found_and_its_scores(
    name: str, more: dict[str, Any], expected: list[tuple[Any, ...]], runs: list[int]
) -> None:
    model, pairs = build(name, **more), requests()
    assert Counter(calls_found(model)) == Counter(AttentionOptions(*call) for call in expected)
    want = means_one_by_one(model, pairs, float64=False)
    for budget in (4096, 48):  # with keys and values that are kept, too
        scorer = instsel.Scorer(model, device="cpu", dtype="float32", max_batch_tokens=budget)
        _ = scorer.model
        runs.clear()
        batch = instsel.score_batch(scorer, pairs)
        assert len(runs) == batch.stats.packs * len(expected)
        assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE


def add_hook(layer: Any) -> None:
    layer.self_attn.register_forward_hook(lambda *_: None)


def add_hook_within(layer: Any) -> None:
    layer.mlp.act_fn.register_forward_pre_hook(lambda *_: None)


def put_in_forward(layer: Any) -> None:
    forward = layer.self_attn.v_proj.forward
    layer.self_attn.v_proj.forward = lambda x: forward(x)


def add_module(layer: Any) -> None:
    layer.self_attn.extra = torch.nn.Linear(64, 64)


def scale_values(layer: Any) -> None:
    kind = type(layer.self_attn.v_proj)
    twice = {"forward": lambda self, x: 2 * kind.forward(self, x)}
    layer.self_attn.v_proj.__class__ = type("Twice", (kind,), twice)


def change_attention(layer: Any) -> None:
    kind = type(layer.self_attn)

    def forward(self: Any, *arguments: Any, **more: Any) -> Any:
        out, rest = kind.forward(self, *arguments, **more)
        return 1.01 * out, rest

    layer.self_attn.__class__ = type("Louder", (kind,), {"forward": forward})


@pytest.mark.parametrize(
    ("change", "runs_whole"),
    [
        (add_hook, False),
        (add_hook_within, False),
        (put_in_forward, False),
        (add_module, True),
        (scale_values, True),
        (change_attention, True),
    ],
)
def test_a_layer_with_something_more_runs_by_its_own_code(
    change: Callable[[Any], None], runs_whole: bool, runs: list[int]
) -> None:
    """All of it where somebody looks in; else the part that is of another kind, between the kernels of the others."""
    model, pairs = build("Llama"), requests()
    change(model.model.layers[1])
    assert len(calls_found(model)) == 1
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    _ = scorer.model
    runs.clear()
    batch = instsel.score_batch(scorer, pairs)
    assert len(runs) == batch.stats.packs * (2 if runs_whole else 1)
    assert np.abs(batch.mean_logprob - means_one_by_one(model, pairs, float64=False)).max() <= TOLERANCE


def test_a_hook_added_after_loading_is_called() -> None:
    model, pairs, seen = build("Llama"), requests(), []
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    before = instsel.score_batch(scorer, pairs).mean_logprob
    model.model.layers[0].self_attn.o_proj.register_forward_hook(lambda module, given, out: seen.append(0) or 2 * out)
    after = instsel.score_batch(scorer, pairs).mean_logprob
    assert seen
    assert np.abs(after - before).max() > 0.01
    assert np.abs(after - means_one_by_one(model, pairs, float64=False)).max() <= TOLERANCE


def test_weights_changed_between_calls_are_seen() -> None:
    model, pairs = build("Qwen3", head_dim=16), requests()
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    instsel.score_batch(scorer, pairs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert (
        np.abs(instsel.score_batch(scorer, pairs).mean_logprob - means_one_by_one(model, pairs, float64=False)).max()
        <= TOLERANCE
    )


@pytest.mark.parametrize("fault", ["attention", "rotary", "cached"])
def test_a_fault_of_the_whole_layer_is_found_when_the_model_is_loaded(
    fault: str, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the checks: the parts are put to use instead, which is said, and scores are right."""
    if fault == "attention":
        attend = layer_attention.attend

        def attend_otherwise(*given: Any) -> None:
            *tensors, options, machine = given
            attend(*tensors, options._replace(scaling=1.1 * options.scaling), machine)

        monkeypatch.setattr(layer_attention, "attend", attend_otherwise)
    elif fault == "rotary":
        monkeypatch.setattr(
            layer_memory.LayerMemory,
            "tables",
            lambda self, rotary, given: [t.contiguous().numpy() for t in given[::-1]],
        )
    else:  # seen only where keys and values are kept from an earlier pack
        run = DecoderLayer.forward

        def without_cached(self: Any, hidden: Any, tables: Any, memory: Any, cached: Any = tuple, keep: Any = None):
            run(self, hidden, tables, memory, lambda: [(0 * k, v) for k, v in cached()], keep)

        monkeypatch.setattr(DecoderLayer, "forward", without_cached)
    model, pairs = build("Llama"), requests()
    scorer = instsel.Scorer(model, device="cpu", dtype="float32", max_batch_tokens=48)
    seen_at_last = r"its layers run their own code \(with the kernels sharing moves"
    why = seen_at_last if fault == "cached" else r"LlamaDecoderLayer runs its own code \(the kernels give other rows"
    with pytest.warns(ScoringWarning, match=why):
        _ = scorer.model
    assert scorer.model.fused_layers is None or not scorer.model.fused_layers.whole
    runs.clear()
    assert (
        np.abs(instsel.score_batch(scorer, pairs).mean_logprob - means_one_by_one(model, pairs, float64=False)).max()
        <= TOLERANCE
    )
    assert not runs


def test_what_is_unusual_runs_by_its_parts(monkeypatch: pytest.MonkeyPatch, runs: list[int]) -> None:
    """A decoder that gives its layers something more is not second-guessed."""
    model, pairs = build("Llama"), requests()
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    _ = scorer.model
    assert scorer.model.fused_layers is not None and len(scorer.model.fused_layers.whole) == 2
    runs.clear()
    usual = whole_layers.is_usual
    monkeypatch.setattr(
        whole_layers,
        "is_usual",
        lambda whole, found, x, arguments: usual(whole, found, x, {**arguments, "bias": 1}),
    )
    want = means_one_by_one(model, pairs, float64=False)
    assert np.abs(instsel.score_batch(scorer, pairs).mean_logprob - want).max() <= TOLERANCE
    assert not runs


def test_sequences_by_themselves_run_by_the_models_own_attention(runs: list[int]) -> None:
    model = build("Llama")
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    session = ModelSession(scorer.model)
    runs.clear()
    with session.inference_context():
        session.forward_alone(np.arange(3, 9), np.arange(6))
    session.close()
    assert not runs
