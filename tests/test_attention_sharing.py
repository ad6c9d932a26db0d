"""Architectures: whatever a model does with its tokens, scores are those of one forward per sequence."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, NotSmallError, build_model
from random_models import new_llama, tree_requests

import instsel
from instsel.engine.model_checks import ScoringWarning
from instsel.engine.model_session import ModelSession
from instsel.kernels import TreeSegments

TOLERANCE = 2e-5  # nats a token, float32
ROPE = {"rope_theta": 1e4}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + 0.3 * i for i in range(8)],
    "original_max_position_embeddings": 40,
}


@torch.inference_mode()
def one_by_one(model: Any, pairs: Any) -> np.ndarray:
    """By the model's own code, in its own dtype; a fresh copy each time where lengths leave a trace in the model."""
    fresh = any("dynamic" in str(getattr(module, "rope_type", "")) for module in model.modules())
    means = []
    for context, continuation in pairs:
        ids = torch.tensor([context + continuation])
        logits = (copy.deepcopy(model) if fresh else model)(input_ids=ids, use_cache=False).logits[0, :-1].double()
        values = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None])[:, 0]
        means.append(values[len(context) - 1 :].mean().item())
    return np.array(means)


def check(model: Any, *, dtype: torch.dtype = torch.float32, tolerance: float = TOLERANCE) -> tuple[Any, list[str]]:
    """Scores of a tree of requests with two budgets against the truth; the loaded model and its warnings."""
    pairs = tree_requests(np.random.default_rng(7))
    want = one_by_one(model, pairs)
    model.to(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer = instsel.Scorer(model, device="cpu", dtype=dtype, max_batch_tokens=4096)
        large = instsel.score_batch(scorer, pairs)
        scorer.max_batch_tokens = 48
        small = instsel.score_batch(scorer, pairs)
    for batch in (large, small):
        assert batch.status.tolist() == ["ok"] * len(pairs)
        assert np.abs(batch.mean_logprob - want).max() <= tolerance
    if dtype == torch.float32:
        assert np.abs(one_by_one(model, pairs) - want).max() <= 1e-6, "the model was changed"
    assert want.std() > 0.05, "weights too narrow to tell a wrong mask"
    return scorer.model, [str(w.message) for w in caught if issubclass(w.category, ScoringWarning)]


BFLOAT16_KINDS = (
    *("llama", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral", "gpt2", "cohere", "granite", "deepseek_v3"),
)
# What each is here for, and the length up to which its paths are shared: None for any, 0 for none.
FAMILIES = {
    "window longer than the check at load": ("mistral", {}, None, ""),
    "a window of one token": ("mistral", {"sliding_window": 1}, None, ""),
    "windows and caps of attention and head": (
        "gemma2",
        {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
        None,
        "",
    ),
    "keys shared between layers": ("gemma3n_text", {}, None, ""),
    "experts beside a shared one": ("qwen2_moe", {}, None, ""),
    "latent attention, values shorter than keys": ("deepseek_v3", {}, None, ""),
    "layers without positions": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, None, ""),
    "scaled head, parallel blocks": ("cohere2", {"logit_scale": 0.25}, None, ""),
    "divided logits, scaled residuals": ("granite", {"logits_scaling": 3.0, "residual_multiplier": 0.5}, None, ""),
    "learned positions, one key head": ("gpt_bigcode", {"multi_query": True}, None, ""),
    "head with layers of its own": ("modernbert-decoder", {}, None, "own logits"),
    "two sets of rotary factors": (
        "phi3",
        {"original_max_position_embeddings": 40, "rope_parameters": ROPE | LONGROPE},
        40,
        "longrope",
    ),
    "rotary factors of two lengths, by types of layers": (
        "gemma3_text",
        {
            "rope_parameters": {
                "sliding_attention": ROPE | LONGROPE | {"original_max_position_embeddings": 120},
                "full_attention": ROPE | LONGROPE,
            }
        },
        40,
        "longrope",
    ),
    "rotary base that grows with the length": (
        "llama",
        {"max_position_embeddings": 40, "rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 4.0}},
        40,
        "dynamic",
    ),
    "attention scaled by the place in the forward": (
        "llama4_text",
        {"layer_types": ["full_attention"] * 4, "floor_scale": 40, "attn_scale": 0.5, "no_rope_layers": [0, 1, 0, 1]},
        39,
        "place in the forward",
    ),
    "chunks of attention": ("llama4_text", {"attn_temperature_tuning": False}, 40, "attention_chunk_size"),
    "positions counted by a table": ("bart", {}, None, ""),
    "a window of half of what is stated": ("modernbert-decoder", {"local_attention": 80}, None, "own logits"),
    "choices of keys taken from the layer before": ("hy_v4", {"index_topk": 40}, 40, "index_topk"),
    "layers that look at images": ("mllama", {}, None, ""),
    "distance biases": ("bloom", {}, 0, "cannot be replaced"),
    "learned sinks": ("gpt_oss", {}, None, ""),
    "lightning attention": ("minimax", {}, 0, "linear_attention"),
}


@pytest.mark.long
@pytest.mark.parametrize("purpose", FAMILIES)
def test_a_family_scores_as_one_by_one_with_at_most_one_warning(purpose: str) -> None:
    kind, settings, limit, reason = FAMILIES[purpose]
    loaded, said = check(build_model(kind, settings))
    assert loaded.shareable_length == limit
    if not reason:
        assert said == []
    else:
        (warning,) = said
        assert warning.startswith(type(loaded.model).__name__ + " is scored exactly, but slower: ")
        assert reason in warning


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_architecture_that_can_be_made_small() -> None:
    """All of transformers' causal language models; those that are not causal as built are refused by name."""
    scored, refused, wrong = [], [], {}
    for kind in ARCHITECTURES:
        try:
            model = build_model(kind)
        except NotSmallError:
            continue
        try:
            loaded, said = check(model)
            slower = loaded.shareable_length is not None or loaded.head is None
            assert len(said) == slower
            scored.append(kind)
        except Exception as error:  # all of them are to be listed
            if "expected a causal" in str(error):
                refused.append(kind)
            else:
                wrong[kind] = repr(error).replace("\\n", " ")[:300]
    print(f"{len(scored)} scored: {' '.join(scored)}\nrefused: {' '.join(refused)}\nwrong: {wrong}")
    assert not wrong
    assert len(scored) >= 100


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", BFLOAT16_KINDS)
def test_bfloat16_stays_as_near_to_float32_as_the_models_own_code(kind: str) -> None:
    pairs = tree_requests(np.random.default_rng(7))
    own = build_model(kind)
    want = one_by_one(own, pairs)
    naive = np.abs(one_by_one(own.to(torch.bfloat16), pairs) - want)
    model = build_model(kind)
    for budget in (4096, 48):
        scorer = instsel.Scorer(copy.deepcopy(model), device="cpu", dtype="bfloat16", max_batch_tokens=budget)
        error = np.abs(instsel.score_batch(scorer, pairs).mean_logprob - want)
        assert error.max() <= 2 * naive.max() + torch.finfo(torch.bfloat16).eps
        assert error.mean() <= 1.5 * naive.mean() + 1e-3


# --- negative controls: what the assertions above would see --------------------------------------------------------


def without_context(segments: TreeSegments) -> TreeSegments:
    """Every node sees itself alone: the prefix is ignored."""
    return TreeSegments.from_lists(segments.query_offsets, [[] for _ in range(segments.num_nodes)])


def with_sibling(segments: TreeSegments) -> TreeSegments:
    """Every node that continues something sees the node before it as well: a leak between siblings."""
    ranges = []
    for node in range(segments.num_nodes):
        first, last = segments.context_offsets[node : node + 2].tolist()
        own = [(int(segments.context_start[m]), int(segments.context_stop[m])) for m in range(first, last)]
        before = (int(segments.query_offsets[max(node - 1, 0)]), int(segments.query_offsets[node]))
        ranges.append([*own, before] if own and before[0] >= own[-1][1] else own)
    return TreeSegments.from_lists(segments.query_offsets, ranges)


@pytest.mark.parametrize("broken", [without_context, with_sibling])
def test_a_wrong_mask_moves_scores_by_far_more_than_the_tolerance(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from instsel.kernels import cpu_tree_attention, layer_attention

    model, pairs = new_llama(), tree_requests(np.random.default_rng(7))
    want = one_by_one(model, pairs)
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    assert np.abs(instsel.score_batch(scorer, pairs).mean_logprob - want).max() < TOLERANCE
    real = cpu_tree_attention.attend
    for module in (cpu_tree_attention, layer_attention):
        monkeypatch.setattr(module, "attend", lambda q, k, v, out, s, *more: real(q, k, v, out, broken(s), *more))
    error = np.abs(instsel.score_batch(scorer, pairs).mean_logprob - want)
    assert error.max() > 0.1
    assert np.median(error) > 100 * TOLERANCE
    # A model for which attention along a tree is wrong from the start is found at load, and scored right.
    other = instsel.Scorer(new_llama(), device="cpu", dtype="float32")
    with pytest.warns(ScoringWarning, match="sharing moves its hidden states"):
        got = instsel.score_batch(other, pairs).mean_logprob
    assert other.model.shareable_length == 0
    assert np.abs(got - want).max() < TOLERANCE


def test_wrong_positions_move_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = new_llama(), tree_requests(np.random.default_rng(7))
    want = one_by_one(model, pairs)
    scorer = instsel.Scorer(model, device="cpu", dtype="float32")
    forward = ModelSession._forward

    def by_place(self: Any, ids: Any, positions: Any, rows: Any, logits: bool) -> Any:
        return forward(self, ids, None if positions is None else np.arange(len(ids)), rows, logits)

    _ = scorer.model
    monkeypatch.setattr(ModelSession, "_forward", by_place)
    assert np.abs(instsel.score_batch(scorer, pairs).mean_logprob - want).max() > 0.1
