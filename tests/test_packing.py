from __future__ import annotations

import numpy as np
import pytest
from counted_work import lines_run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instsel.planning import packing
from instsel.planning.packing import Step, plan_steps, split_step
from instsel.planning.prefix_tree import PrefixTree, build_prefix_tree, concatenate

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=24)
BUDGETS = st.integers(1, 40)


def tree_of(sequences: list[list[int]]) -> PrefixTree:
    return build_prefix_tree(*concatenate([np.array(s, np.int32) for s in sequences]))


def run(tree: PrefixTree, steps: list[Step], kept: set[int] | None = None) -> tuple[list[int], set[int]]:
    """Goes through steps as the engine does: parents have to be at hand. Gives the nodes done and those still kept."""
    kept = set() if kept is None else kept
    done: list[int] = []
    for step in steps:
        assert len(step.nodes) > 0
        assert step.num_tokens == tree.lengths[step.nodes].sum()
        assert set(step.cached) <= kept, "a cached path was released or never kept"
        path = [-1, *step.cached]
        assert all(tree.parent[node] == before for before, node in zip(path, step.cached, strict=False))
        inside = set(step.nodes.tolist())
        assert step.nodes.tolist() == sorted(inside)
        for node in inside:
            assert tree.parent[node] == -1 or tree.parent[node] in inside | set(step.cached)
        assert set(step.keep) <= inside
        kept |= set(step.keep)
        kept -= set(step.release)
        done += step.nodes.tolist()
    return done, kept


@given(SEQUENCES, BUDGETS)
@settings(max_examples=200, deadline=None)
def test_every_node_once_within_the_budget_and_nothing_kept_at_the_end(sequences: list[list[int]], budget: int) -> None:
    tree = tree_of(sequences)
    steps = plan_steps(tree, budget)
    done, kept = run(tree, steps)
    assert sorted(done) == list(range(len(tree.parent)))
    assert not kept
    assert all(step.num_tokens <= budget or len(step.nodes) == 1 for step in steps)


# A root's last children in one step, which lets its keys go: the first part must not.
@pytest.mark.long
@example(sequences=[[0, 1, 0, 1, *([child] * 2)] for child in range(2, 8)], budget=8, smaller=2, which=1)
@given(SEQUENCES, BUDGETS, st.integers(1, 20), st.integers(0, 30))
@settings(max_examples=200, deadline=None)
def test_a_step_split_is_the_same_step_in_parts(
    sequences: list[list[int]], budget: int, smaller: int, which: int
) -> None:
    tree = tree_of(sequences)
    steps = plan_steps(tree, budget)
    if not steps:
        return
    at = which % len(steps)
    _, kept = run(tree, steps[:at])
    step = steps[at]
    parts = split_step(tree, step, min(smaller, max(step.num_tokens // 2, 1)))
    if len(step.nodes) == 1:
        assert parts == []
        return
    done, kept = run(tree, parts, kept)
    assert sorted(done) == step.nodes.tolist()
    assert all(part.num_tokens < step.num_tokens for part in parts)
    done, kept = run(tree, steps[at + 1 :], kept)
    assert not kept


@given(SEQUENCES)
@settings(max_examples=100, deadline=None)
def test_alone_every_root_runs_by_itself_largest_first(sequences: list[list[int]]) -> None:
    tree = build_prefix_tree(*concatenate([np.array(s, np.int32) for s in sequences]), share=False)
    steps = plan_steps(tree, 1000, alone=True)
    assert [len(step.nodes) for step in steps] == [1] * len(tree.roots())
    sizes = [step.num_tokens for step in steps]
    assert sizes == sorted(sizes, reverse=True)


def test_equal_trees_side_by_side_fill_packs_largest_first() -> None:
    tree = tree_of([[first, *range(10, 10 + length)] for first, length in enumerate([9, 2, 7, 4, 5, 6, 1, 8])])
    steps = plan_steps(tree, 14)
    sizes = [step.num_tokens for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 42
    assert len(steps) == 3  # 42 tokens need at least three packs of 14


def test_one_demonstration_with_more_probes_than_fit_is_prefilled_once() -> None:
    demonstration = list(range(100, 164))
    tree = tree_of([[*demonstration, probe, probe, probe, probe] for probe in range(50)])
    steps = plan_steps(tree, 80)
    assert sum(step.num_tokens for step in steps) == 64 + 50 * 3
    (first, *later) = steps
    assert first.keep == (0,)
    assert all(step.cached == (0,) for step in later)
    assert len(steps) == 1 + -(-(50 - 5) // 26)  # 5 probes beside the prefix, then 26 a pack
    assert [step.release for step in steps] == [()] * (len(steps) - 1) + [(0,)]


def test_a_sequence_longer_than_the_budget_is_a_step_of_its_own() -> None:
    tree = tree_of([list(range(10, 60)), [1, 2, 3], [2, 3, 4]])
    assert [step.num_tokens for step in plan_steps(tree, 8)] == [49, 4]


def deep_tree(levels: int) -> PrefixTree:
    return tree_of([[*range(100, 100 + n), 1, 2] for n in range(1, levels + 1)])


@pytest.mark.long
@pytest.mark.parametrize("budget", [1, 7, 4096])
def test_a_deep_tree_is_planned_without_recursion(budget: int) -> None:
    tree = deep_tree(1500)
    done, kept = run(tree, plan_steps(tree, budget))
    assert sorted(done) == list(range(len(tree.parent)))
    assert not kept


@pytest.mark.parametrize("budget", [1, 7])
def test_planning_grows_with_the_depth_and_not_with_its_square(budget: int) -> None:
    trees = [deep_tree(300), deep_tree(600)]
    once, twice = (lines_run(packing, lambda tree=tree: plan_steps(tree, budget)) for tree in trees)
    assert once > 300 and twice < 2.2 * once, (once, twice)
