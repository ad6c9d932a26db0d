"""A model edited between two calls, by any plain attribute that a forward may read: scored as it is at each call."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from architectures import build_model
from random_models import new_llama, tree_requests
from test_attention_sharing import one_by_one
from transformers.models.llama import modeling_llama

import instsel
from instsel.engine.model_checks import ScoringWarning

TOLERANCE = 3e-5  # nats a token, float32
PAIRS = tree_requests(np.random.default_rng(7))[:10]

# Edits that are known to reach a forward; LIMIT, the windows that these models are built with, is 40.
EDITS: dict[str, tuple[str, str, Any]] = {
    "scaling of Llama": ("llama", "model.layers.1.self_attn.scaling", 0.9),
    "scaling of Mistral": ("mistral", "model.layers.1.self_attn.scaling", 0.9),
    "scaling of Qwen3": ("qwen3", "model.layers.1.self_attn.scaling", 0.9),
    "window of Mistral": ("mistral", "config.sliding_window", 8),
    "smaller window of Gemma 2": ("gemma2", "config.sliding_window", 8),
    "larger window of Gemma 2": ("gemma2", "config.sliding_window", 200),
    "larger window of Gemma 3": ("gemma3_text", "config.sliding_window", 200),
    "window of one module of Gemma 2": ("gemma2", "model.layers.0.self_attn.sliding_window", 9),
    "kinds of the layers of Gemma 2": ("gemma2", "config.layer_types", ["full_attention"] * 4),
    "cap of Gemma 2's attention": ("gemma2", "model.layers.0.self_attn.attn_logit_softcapping", 2.0),
    "cap of Gemma 2's head": ("gemma2", "config.final_logit_softcapping", 2.0),
    "scale of Cohere's head": ("cohere", "logit_scale", 0.7),
    "configured scale of Cohere's head": ("cohere", "config.logit_scale", 0.7),
    "divisor of Granite's head": ("granite", "config.logits_scaling", 3.0),
    "residuals of Granite": ("granite", "model.layers.0.residual_multiplier", 0.5),
}


def edited(model: Any, path: str, value: Any) -> None:
    *owner, name = path.split(".")
    for part in owner:
        model = getattr(model, part)
    assert hasattr(model, name)
    setattr(model, name, value)


def agrees(model: Any, scorer: instsel.Scorer) -> None:
    want = one_by_one(model, PAIRS)
    for one in (scorer, instsel.Scorer(model, device="cpu")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ScoringWarning)
            got = instsel.score_batch(one, PAIRS).mean_logprob
        assert np.abs(got - want).max() < TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("purpose", EDITS)
def test_an_edit_is_seen_by_the_same_scorer_and_a_fresh_one(purpose: str) -> None:
    kind, path, value = EDITS[purpose]
    model = build_model(kind)
    scorer = instsel.Scorer(model, device="cpu")
    instsel.score_batch(scorer, PAIRS)
    edited(model, path, value)
    agrees(model, scorer)


def test_attention_that_is_made_to_look_ahead_is_refused() -> None:
    model = new_llama()
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ValueError, match="expected a causal"):
        instsel.score_batch(scorer, PAIRS)


def test_a_rotary_function_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = new_llama(), modeling_llama.apply_rotary_pos_emb
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)

    def slower(q: Any, k: Any, cos: Any, sin: Any, *rest: Any, **more: Any) -> Any:
        return own(q, k, cos, sin * 0.5, *rest, **more)

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", slower)
    agrees(model, scorer)


class Scaled(modeling_llama.LlamaDecoderLayer):
    """A layer with a learned scale, which does nothing before it is trained."""

    def forward(self, *arguments: Any, **more: Any) -> Any:
        return super().forward(*arguments, **more) * self.scale


@pytest.mark.parametrize("trained", ["parameter", "buffer"])
def test_a_tensor_that_does_nothing_at_first_is_followed(trained: str) -> None:
    model = new_llama()
    layer = model.model.layers[1]
    layer.__class__ = Scaled
    tensor = torch.ones(64)
    if trained == "parameter":
        layer.scale = torch.nn.Parameter(tensor)
    else:
        layer.register_buffer("scale", tensor)
    scorer = instsel.Scorer(model)
    instsel.score_batch(scorer, PAIRS)
    with torch.no_grad():
        layer.scale.mul_(0.5)
    agrees(model, scorer)


def test_going_to_and_fro_and_what_a_forward_changes_itself_lead_to_no_new_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks: list[int] = []
    load = instsel.engine.scorer.load_model
    for module in ("scorer", "checked_models"):
        monkeypatch.setattr(f"instsel.engine.{module}.load_model", lambda source: checks.append(0) or load(source))

    class Counting(modeling_llama.LlamaMLP):
        calls = 0

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return super().forward(x)

    model = new_llama()
    model.model.layers[0].mlp.__class__ = Counting
    scorer = instsel.Scorer(model)
    for _ in range(3):
        for scaling in (0.25, 0.5):
            model.model.layers[1].self_attn.scaling = scaling
            instsel.score_batch(scorer, PAIRS)
            model(torch.tensor([[5, 6]]))  # counts
            model.train().eval()
    assert len(checks) == 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "kind",
    [
        *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"),
        *("cohere", "granite", "phi3", "mixtral", "gpt2", "olmo2"),
    ],
)
def test_every_number_that_a_class_of_module_or_the_configuration_holds(kind: str) -> None:
    model = build_model(kind)
    scorer = instsel.Scorer(model, device="cpu")
    base = one_by_one(model, PAIRS)
    owners: dict[type, Any] = {type(module): module for module in model.modules()}
    moved = 0
    for owner in [*owners.values(), model.config]:
        numbers = [(n, v) for n, v in vars(owner).items() if type(v) in (int, float)]
        for name, value in numbers:
            for other in [value * 2 if value else 1.0] if type(value) is float else [value + 3, max(value // 2, 1)]:
                setattr(owner, name, other)
                try:
                    want = one_by_one(model, PAIRS)
                except Exception:  # its own forward cannot be run with that
                    continue
                finally:
                    setattr(owner, name, value)
                setattr(owner, name, other)
                moved += np.abs(want - base).max() > 1e-3
                agrees(model, scorer)
                setattr(owner, name, value)
    assert moved >= 2, "the control: edits that a forward reads"
