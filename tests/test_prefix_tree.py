from __future__ import annotations

import numpy as np
import pytest
from counted_work import lines_run
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.planning import prefix_tree
from instsel.planning.prefix_tree import PrefixTree, build_prefix_tree, concatenate

# Few different ids, so that prefixes are shared; ids around 256 and 65,536 tell a byte order that sorts wrongly.
SEQUENCES = st.lists(st.lists(st.sampled_from([0, 1, 2, 255, 256, 65_535, 65_536, 2**31 - 1]), max_size=9), max_size=24)


def tree_of(sequences: list[list[int]], **options: object) -> PrefixTree:
    return build_prefix_tree(*concatenate([np.array(s, np.int32) for s in sequences]), **options)  # type: ignore[arg-type]


def node_tokens(tree: PrefixTree, node: int) -> list[int]:
    begin = tree.offsets[tree.source[node]]
    return tree.tokens[begin + tree.start[node] : begin + tree.end[node]].tolist()


def path_tokens(tree: PrefixTree, sequence: int) -> list[int]:
    last = int(tree.terminal[sequence])
    return [token for node in [*tree.ancestors(last), last] for token in node_tokens(tree, node)]


def proper_prefixes(sequences: list[list[int]]) -> set[tuple[int, ...]]:
    return {tuple(s[:end]) for s in sequences for end in range(1, len(s))}


@given(SEQUENCES)
@settings(max_examples=150, deadline=None)
def test_each_distinct_proper_prefix_is_one_token(sequences: list[list[int]]) -> None:
    tree = tree_of(sequences)
    assert tree.num_tokens == len(proper_prefixes(sequences))
    for i, sequence in enumerate(sequences):
        if len(sequence) < 2:
            assert tree.terminal[i] == -1
        else:
            forwarded = sequence[:-1]
            assert path_tokens(tree, i)[: len(forwarded)] == forwarded
            assert tree.start[tree.terminal[i]] < len(forwarded) <= tree.end[tree.terminal[i]]


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_nodes_are_in_preorder_and_siblings_differ(sequences: list[list[int]]) -> None:
    tree = tree_of(sequences)
    nodes = range(len(tree.parent))
    assert all(tree.parent[n] < n < tree.subtree_end[n] for n in nodes)
    assert all(tree.start[n] < tree.end[n] for n in nodes)
    for n in nodes:
        inside = [m for m in nodes if n == m or n in tree.ancestors(m)]
        assert inside == list(range(n, tree.subtree_end[n]))
        assert tree.subtree_tokens()[n] == sum(tree.lengths[m] for m in inside)
        assert tree.start[n] == (0 if tree.parent[n] < 0 else tree.end[tree.parent[n]])
    for siblings in [tree.roots().tolist(), *(tree.children(n) for n in nodes)]:
        first = [node_tokens(tree, n)[0] for n in siblings]
        assert len(set(first)) == len(first)


@given(SEQUENCES)
@settings(max_examples=60, deadline=None)
def test_without_sharing_every_distinct_path_is_a_root(sequences: list[list[int]]) -> None:
    tree = tree_of(sequences, share=False)
    paths = {tuple(s[:-1]) for s in sequences if len(s) > 1}
    assert len(tree.roots()) == len(tree.parent) == len(paths)
    for i, sequence in enumerate(sequences):
        if len(sequence) > 1:
            assert path_tokens(tree, i) == sequence[:-1]


@given(SEQUENCES, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_sequences_that_are_not_chosen_leave_no_tokens(sequences: list[list[int]], random: object) -> None:
    chosen = np.array([random.random() < 0.5 for _ in sequences], bool)  # type: ignore[attr-defined]
    tree = tree_of(sequences, chosen=chosen)
    assert tree.num_tokens == len(proper_prefixes([s for s, c in zip(sequences, chosen, strict=True) if c]))
    assert (tree.terminal[~chosen] == -1).all()


def test_worked_example_of_a_demonstration_with_two_probes() -> None:
    """d1..d4 p1 p2 p3 q1 q2 q3: one copy of the demonstration, no last token of a leaf."""
    tree = tree_of([[1, 2, 3, 4, 11, 12, 13, 14], [1, 2, 3, 4, 21, 22, 23, 24]])
    assert [node_tokens(tree, n) for n in range(3)] == [[1, 2, 3, 4], [11, 12, 13], [21, 22, 23]]
    assert tree.parent.tolist() == [-1, 0, 0]
    assert tree.start.tolist() == [0, 4, 4]


def test_a_sequence_that_ends_inside_another_has_no_node_of_its_own() -> None:
    tree = tree_of([[1, 2, 3, 4, 5], [1, 2, 3], [1, 2, 3, 4, 5, 6, 7], [1]])
    assert tree.num_tokens == 6
    assert len(tree.parent) == 1
    assert tree.terminal.tolist() == [0, 0, 0, -1]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_forward(count: int) -> None:
    tree = tree_of([[]] * count)
    assert tree.num_tokens == 0
    assert len(tree.roots()) == 0


def chain(levels: int) -> list[list[int]]:
    """Sequences that each leave the longest one a token later."""
    return [[*range(100, 100 + n), 1, 2] for n in range(1, levels + 1)]


@pytest.mark.long
def test_a_chain_of_thousands_of_branches_takes_no_recursion() -> None:
    tree = tree_of(chain(3000))
    assert tree.num_tokens == 3000 + 3000
    assert len(tree.ancestors(int(tree.terminal[-1]))) >= 2999


def test_work_grows_with_the_depth_and_not_with_its_square() -> None:
    once, twice = (lines_run(prefix_tree, lambda levels=levels: tree_of(chain(levels))) for levels in (300, 600))
    assert once > 300 and twice < 2.2 * once, (once, twice)


def test_more_pairs_than_one_block_of_the_comparison() -> None:
    """Common prefixes are found in blocks of pairs: the same at the seams."""
    count = 70_000
    rng = np.random.default_rng(0)
    sequences = rng.integers(0, 40, (count, 4)).astype(np.int32)
    tree = build_prefix_tree(sequences.reshape(-1), np.arange(0, 4 * count + 1, 4))
    want = sum(len(np.unique(sequences[:, :end], axis=0)) for end in (1, 2, 3))
    assert tree.num_tokens == want
