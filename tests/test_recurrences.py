"""Convolutions and recurrences along a tree: every node goes on from its parent's state, in whatever packs it runs."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from architectures import build_model
from random_models import tree_requests
from test_attention_sharing import TOLERANCE, one_by_one

import instsel
from instsel.engine.model_session import ModelSession
from instsel.layers import mixer_functions, recurrence_levels
from instsel.planning.pack_tree import Context, PackTree

QUICK = "a convolution alone"
KINDS = {
    "gated delta rule": ("qwen3_5_text", {}),
    "gated delta rule beside experts": ("qwen3_next", {}),
    "one decay a channel": ("kimi_linear", {}),
    "a convolution alone": ("lfm2", {}),
    "Mamba-2 and attention": ("granitemoehybrid", {}),
    "both in one layer": ("falcon_h1", {}),
    "no attention at all": ("mamba2", {"time_step_limit": (0.05, 0.2)}),
    "layers that mix nothing": ("nemotron_h", {}),
    "Mamba-1": ("jamba", {}),
}
IDS = np.random.default_rng(1).integers(3, 200, 66).tolist()
# Each request goes on one token after the one before: as many levels, and cached paths of as many nodes.
CHAIN = [(IDS[:end], [5 + end % 3, 7]) for end in range(1, 65)]


def scores(model: Any, pairs: Any, budget: int) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scorer = instsel.Scorer(model, device="cpu", max_batch_tokens=budget)
        batch = instsel.score_batch(scorer, pairs)
    return scorer.model, batch, [str(warning.message) for warning in caught]


@functools.cache
def alone(name: str) -> np.ndarray:
    """Scores of the tree's requests each by itself, by the model of a purpose above or of a kind."""
    return one_by_one(build_model(*KINDS.get(name, (name, {}))), tree_requests(np.random.default_rng(7)))


@functools.cache
def alone_in_chain(kind: str) -> np.ndarray:
    return one_by_one(build_model(kind), CHAIN)


def run_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has mixers go along a tree by the kernels alone, or by the model's own functions level by level."""

    def missing(*_: Any) -> Any:
        raise AssertionError("the kernels were not taken")

    if way == "levels":
        monkeypatch.setattr(mixer_functions, "fast_backend", lambda *_: None)
    else:
        monkeypatch.setattr(mixer_functions, "scan_levels", missing)
        monkeypatch.setattr(mixer_functions, "convolve_levels", missing)


@pytest.mark.parametrize("way", ["kernels", "levels"])
@pytest.mark.parametrize("purpose", [k if k == QUICK else pytest.param(k, marks=pytest.mark.long) for k in KINDS])
def test_a_tree_has_the_numbers_of_one_sequence_at_a_time(
    purpose: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_by(way, monkeypatch)
    kind, settings = KINDS[purpose]
    model = build_model(kind, settings)
    pairs = tree_requests(np.random.default_rng(7))
    want = alone(purpose)
    for budget in (17, 64, 4096):  # of which the first two keep states for later packs
        loaded, batch, said = scores(model, pairs, budget)
        assert loaded.shareable_length is None and not said
        assert batch.stats.tokens_forwarded < batch.stats.tokens_unshared
        assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE
    assert want.std() > 0.05, "weights too narrow to tell a wrong state"


@pytest.mark.long
@pytest.mark.parametrize("way", ["kernels", "levels"])
@pytest.mark.parametrize("kind", ["qwen3_5_text", "mamba2", "lfm2"])
def test_a_chain_of_many_levels(kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_by(way, monkeypatch)
    model, want = build_model(kind), alone_in_chain(kind)
    for budget in (17, 4096):
        _, batch, _ = scores(model, CHAIN, budget)
        # 64 roundings of a state one after another.
        assert np.abs(batch.mean_logprob - want).max() <= 1.5 * TOLERANCE


@pytest.mark.long
def test_bfloat16_stays_as_near_to_float32_as_the_models_own_code() -> None:
    for kind in ("qwen3_5_text", "granitemoehybrid"):
        model = build_model(kind)
        pairs = tree_requests(np.random.default_rng(7))
        exact = one_by_one(model, pairs)
        own = np.abs(one_by_one(model.to(torch.bfloat16), pairs) - exact)
        ours = np.abs(scores(model, pairs, 64)[1].mean_logprob - exact)
        assert np.sqrt((ours**2).mean()) <= 2 * np.sqrt((own**2).mean()) + 1e-4, kind


def of_no_parent(parent: int, final: Any, cached: Any) -> Any:
    return None if parent == -1 else torch.zeros_like((final + cached)[0])


def of_another(parent: int, final: Any, cached: Any) -> Any:
    return None if parent == -1 else (final[max(parent - 1, 0)] if parent >= 0 else cached[0])


def seeing_siblings(tree: PackTree, width: int) -> Context:
    """What stands before a node in the pack in place of what its path has there."""
    found = right_context(tree, width)
    order = found.order.clone()
    before = torch.cat([order[:1], order[found.own]])  # the pack's tokens, each behind the one that it follows
    for begin in tree.nodes.offsets[:-1].tolist():
        order[int(found.own[begin]) - 1] = before[begin]
    return Context(order, found.own, found.last)


right_context = PackTree.context
right_tree = PackTree.of


def going_on_from_siblings(offsets: np.ndarray, parents: np.ndarray, device: torch.device) -> PackTree:
    """Each node of the pack goes on from the one that stands before it."""
    before = np.arange(-1, len(parents) - 1)
    return right_tree(offsets, np.where(parents >= 0, before, parents), device)


def beginning_anew(offsets: np.ndarray, parents: np.ndarray, device: torch.device) -> PackTree:
    """No node goes on from what an earlier pack kept."""
    return right_tree(offsets, np.maximum(parents, -1), device)


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "way", "place", "name", "wrong"),
    [
        ("qwen3_5_text", "levels", recurrence_levels, "_begun_with", of_no_parent),
        ("mamba2", "levels", recurrence_levels, "_begun_with", of_another),
        ("lfm2", "levels", PackTree, "context", seeing_siblings),
        *((kind, "kernels", PackTree, "of", going_on_from_siblings) for kind in ("qwen3_5_text", "mamba2", "lfm2")),
        *((kind, "kernels", PackTree, "of", beginning_anew) for kind in ("qwen3_5_text", "mamba2", "lfm2")),
    ],
)
def test_a_wrong_state_is_seen_at_load_and_sequences_run_alone(
    kind: str, way: str, place: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_by(way, monkeypatch)
    model, pairs, want = build_model(kind), tree_requests(np.random.default_rng(7)), alone(kind)
    monkeypatch.setattr(place, name, wrong)
    loaded, batch, said = scores(model, pairs, 64)
    assert loaded.shareable_length == 0 and "prefixes cannot be shared" in said[0]
    assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE


def test_the_model_given_keeps_its_own_functions() -> None:
    model = build_model("qwen3_5_text")
    mixer = next(module for module in model.modules() if type(module).__name__.endswith("GatedDeltaNet"))
    before = type(mixer).forward, dict(vars(mixer))
    pairs = tree_requests(np.random.default_rng(7))
    loaded, _, _ = scores(model, pairs, 64)
    assert (type(mixer).forward, set(vars(mixer))) == (before[0], set(before[1]))
    session = ModelSession(loaded)
    try:
        assert session.recurrences == sum(type(module) is type(mixer) for module in model.modules())
    finally:
        session.close()


def test_nodes_of_a_depth_and_of_about_one_length_run_together() -> None:
    #       0 (4)
    #   1 (3)    3 (40)      4 (2) on cached node 1
    #   2 (2)
    tree = PackTree.of(np.array([0, 4, 7, 9, 49, 51]), np.array([-1, 0, 1, 0, -3]), torch.device("cpu"))
    assert tree.initial == [1] and tree.nodes.parents.tolist() == [-1, 0, 1, 0, -2]
    assert [level.nodes for level in tree.levels()] == [[0, 4], [1], [3], [2]]
    first = tree.levels()[0]
    assert first.tokens.tolist() == [[0, 1, 2, 3], [49, 50, 51, 51]]  # 51 is none of the pack's
    assert first.filled.tolist() == [0, 1, 2, 3, 4, 5] and first.own.tolist() == [0, 1, 2, 3, 49, 50]
    context = tree.context(3)  # over [0 | cached 1: 1-3 | pack: from 4]
    assert context.order[context.own].tolist() == list(range(4, 55))
    assert context.order[:7].tolist() == [0, 0, 0, 4, 5, 6, 7]
    assert context.last[[0, 2, 4]].tolist() == [[5, 6, 7], [10, 11, 12], [3, 53, 54]]
    assert context.order[-5:].tolist() == [1, 2, 3, 53, 54]


def test_each_node_goes_on_from_its_own_cached_node() -> None:
    tree = PackTree.of(np.array([0, 1, 2, 3, 4, 5]), np.array([-5, -2, -2, -1, 0]), torch.device("cpu"))
    assert tree.initial == [0, 3] and tree.nodes.parents.tolist() == [-3, -2, -2, -1, 0]
    # Over [0 | cached 0: 1, 2 | cached 3: 3, 4 | pack: from 5].
    assert tree.context(2).order.tolist() == [3, 4, 5, 1, 2, 6, 1, 2, 7, 0, 0, 8, 4, 5, 9]
    final, initial = [torch.tensor([place]) for place in (5, 6)], [torch.tensor([place]) for place in (7, 8)]
    begun = [recurrence_levels._begun_with(parent, final, initial) for parent in (1, -2, -3, -1)]
    assert [None if one is None else int(one) for one in begun] == [6, 7, 8, None]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("deepseek_v32", {"index_topk": 40}),
        ("glm_moe_dsa", {"index_topk": 40}),
        ("minimax_m3_vl_text", {"index_topk_blocks": 8, "index_block_size": 5}),
    ],
)
def test_an_indexer_that_chooses_all_keys_is_passed_over(kind: str, settings: dict[str, Any]) -> None:
    model, limit = build_model(kind, settings), 40
    rng = np.random.default_rng(3)
    shared = rng.integers(3, 200, 20).tolist()
    pairs = [(shared, rng.integers(3, 200, 8).tolist()) for _ in range(6)]
    pairs += [(shared, rng.integers(3, 200, 40).tolist())]  # beyond the limit: alone, by the indexer's choice
    want = one_by_one(model, pairs)
    for budget in (17, 4096):
        loaded, batch, said = scores(model, pairs, budget)
        assert loaded.shareable_length == limit and "index_topk" in said[0]
        assert batch.stats.tokens_forwarded < batch.stats.tokens_unshared
        assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE
    control = instsel.Scorer(model, device="cpu", max_batch_tokens=4096)
    control.model.shareable_length = None
    wrong = instsel.score_batch(control, pairs).mean_logprob
    assert np.abs(wrong - want)[-1] > 1e-3, "beyond the limit keys are left out, or this test sees nothing"


def test_a_forward_is_no_longer_than_what_a_place_in_it_may_be() -> None:
    """Llama 4 scales attention by a token's place in the forward: packs end before the scale changes."""
    settings = {
        "layer_types": ["full_attention"] * 4,
        "floor_scale": 40,
        "attn_scale": 0.5,
        "no_rope_layers": [0, 1, 0, 1],
    }
    model = build_model("llama4_text", settings)
    rng = np.random.default_rng(3)
    shared = rng.integers(3, 200, 20).tolist()
    pairs = [(shared, rng.integers(3, 200, size).tolist()) for size in (4, 6, 8, 10, 12, 19, 20, 21, 40)]
    want = one_by_one(model, pairs)
    loaded, batch, said = scores(model, pairs, 4096)
    assert loaded.shareable_length == 39 and "place in the forward" in said[0]
    assert batch.stats.packs > 2 and batch.stats.tokens_forwarded < batch.stats.tokens_unshared
    assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE
    control = instsel.Scorer(model, device="cpu", max_batch_tokens=4096)
    control.model.largest_pack = None
    control.model.fused_layers = None  # which scale by nothing, as the model does up to that length
    wrong = instsel.score_batch(control, pairs).mean_logprob
    assert np.abs(wrong - want).max() > 1e-3, "one pack of all must be wrong, or this test sees nothing"
