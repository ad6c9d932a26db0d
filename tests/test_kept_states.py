"""Recurrent states of nodes: how many are held at once, and that what goes on from them has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import build_model
from random_models import shared_llama, tree_requests
from test_attention_sharing import TOLERANCE, one_by_one

import instsel
from instsel.engine import execution
from instsel.engine.kept_states import KeptStates, state_bytes
from instsel.kernels import TreeSegments
from instsel.layers.attention import PackState
from instsel.planning.packing import plan_steps
from instsel.planning.prefix_tree import PrefixTree, build_prefix_tree, concatenate


def comb(levels: int) -> PrefixTree:
    """A chain of nodes of 2 tokens, on each of which a node of 3 hangs beside the next."""
    spine = np.arange(2 * levels)
    tails = [np.concatenate([spine[: 2 * level], [900, 901, 902]]) for level in range(1, levels)]
    return build_prefix_tree(*concatenate([*tails, spine]))


def most_held(tree: PrefixTree, budget: int, state_tokens: int) -> int:
    """The most nodes that have their states at once while the plan's steps run."""
    caches: dict[int, Any] = {}
    states, most = KeptStates(tree), 0
    ran: list[int] = []
    for step in plan_steps(tree, budget, state_tokens=state_tokens):
        nodes = set(step.nodes.tolist())
        for node in nodes:  # what a node goes on from is in the step, or has its state
            parent = int(tree.parent[node])
            assert parent in {-1, *nodes} or caches[parent][0] is not None
        for node in step.keep:
            later = any(child not in nodes for child in tree.children(node))
            caches[node] = [torch.zeros(1) if later else None]
        most = max(most, sum(one[0] is not None for one in caches.values()))
        states.ran(step, caches)
        for node in step.release:
            caches.pop(node)
        ran += step.nodes.tolist()
    assert sorted(ran) == [node for node in range(len(tree.parent)) if tree.lengths[node]] and not caches
    return most


@pytest.mark.parametrize("budget", [17, 64, 400])
def test_states_are_held_within_the_budget_however_many_levels(budget: int) -> None:
    tree = comb(500)
    assert most_held(tree, budget, 40) <= budget // 40 + 2
    assert most_held(tree, budget, 0) > 100, "states that weigh nothing must be held by the hundred"


def test_a_state_is_let_go_when_its_last_child_has_run_and_keys_stay() -> None:
    tree = comb(3)
    steps = plan_steps(tree, 4, state_tokens=1)
    keys = (torch.zeros(2, 1, 1), torch.zeros(2, 1, 1))
    caches: dict[int, Any] = {}
    states = KeptStates(tree)
    held = []
    for step in steps:
        caches.update({node: [keys, torch.ones(5)] for node in step.keep})
        states.ran(step, caches)
        assert all(kept[0] is keys for kept in caches.values())
        held.append([node for node, kept in caches.items() if kept[1] is not None])
    assert held[0] == [0] and held[-1] == []
    assert state_bytes([[keys, torch.ones(5)], [keys]]) == 20 and state_bytes([]) == 0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["qwen3_5_text", "lfm2"])
def test_scores_are_the_same_with_states_let_go_early(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(1).integers(3, 200, 60).tolist()
    pairs = [(ids[:end], [tail, 7]) for end in range(2, 60, 3) for tail in (5, 6)]
    model = build_model(kind)
    want = one_by_one(model, pairs)
    let_go: list[int] = []
    run = KeptStates.ran

    def ran(self: KeptStates, step: Any, caches: dict[int, Any]) -> None:
        before = state_count(caches)
        run(self, step, caches)
        let_go.append(before - state_count(caches))

    def state_count(caches: dict[int, Any]) -> int:
        return sum(any(isinstance(one, torch.Tensor) for one in kept) for kept in caches.values())

    monkeypatch.setattr(execution.KeptStates, "ran", ran)
    scorer = instsel.Scorer(model, device="cpu", max_batch_tokens=17)
    batch = instsel.score_batch(scorer, pairs)
    assert scorer.model.state_tokens > 0 and sum(let_go) > 3
    assert np.abs(batch.mean_logprob - want).max() <= TOLERANCE


def test_keys_and_values_are_let_go_when_no_step_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    update = execution._update

    def noted(caches: dict[int, Any], *rest: Any) -> Any:
        failed = update(caches, *rest)
        held.append(len(caches))
        return failed

    monkeypatch.setattr(execution, "_update", noted)
    scorer = instsel.Scorer(shared_llama(), device="cpu", max_batch_tokens=48)
    instsel.score_batch(scorer, tree_requests(np.random.default_rng(3)))
    assert max(held) > 0 and held[-1] == 0


def test_what_is_kept_is_no_part_of_the_pack() -> None:
    """A view would keep all of the pack's memory, and change with it."""
    state = PackState(TreeSegments.from_lists([0, 3, 5], [[], [(0, 3)]]), kept=((7, 0, 3),), places={7: 0})
    keys, ended = torch.ones(5, 1, 2), torch.ones(2, 4)
    state.keep(keys, keys[:, :, :1])
    state.keep_recurrent(lambda place: ended[place])
    for one in (keys, ended):
        one.fill_(9)
    (key, value), recurrent = state.keys_values[7]
    for one, numbers in ((key, 6), (value, 3), (recurrent, 4)):
        assert one.untyped_storage().nbytes() == 4 * numbers and bool((one == 1).all())


def test_a_model_of_attention_alone_has_none() -> None:
    scorer = instsel.Scorer(build_model("llama"), device="cpu")
    assert scorer.model.state_tokens == 0
