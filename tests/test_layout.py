from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.planning.layout import Layout, find_spans, lay_out
from instsel.planning.packing import plan_steps
from instsel.planning.prefix_tree import build_prefix_tree, concatenate

REQUESTS = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.lists(st.integers(0, 2), max_size=8)), max_size=16
)


def layouts_of(requests: list[tuple[list[int], list[int]]], budget: int) -> list[tuple[tuple[int, ...], Layout]]:
    """Each step's layout, with the cached path."""
    tree = build_prefix_tree(*concatenate([np.array(a + b, np.int32) for a, b in requests]))
    first = np.array([len(a) if b else 0 for a, b in requests], np.int64)
    # A request with nothing to score is left out, as the engine does.
    tree = build_prefix_tree(tree.tokens, tree.offsets, chosen=first > 0)
    spans = find_spans(tree, first)
    return [(step.cached, lay_out(tree, spans, step)) for step in plan_steps(tree, budget)]


@given(REQUESTS, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_every_token_sees_exactly_its_own_prefix(requests: list[tuple[list[int], list[int]]], budget: int) -> None:
    """Key ranges joined in order, then the node's own tokens, spell the prefix that some request has."""
    sequences = [a + b for a, b in requests if b]
    prefixes = {tuple(s[:end]) for s in sequences for end in range(1, len(s))}
    seen: list[tuple[int, ...]] = []
    kept: dict[int, list[int]] = {}
    continued: set[int] = set()  # nodes whose ends are kept, and those that some node went on from in a later pack
    gone_on_from: set[int] = set()
    for cached, layout in layouts_of(requests, budget):
        paths: list[list[int]] = []  # of the pack's nodes, by what each goes on from
        cached_ids = [token for node in cached for token in kept[node]]
        keys = np.array([*cached_ids, *layout.ids], np.int64)
        segments = layout.segments
        for node in range(segments.num_nodes):
            first, last = segments.query_offsets[node : node + 2].tolist()
            path = segments.key_indices(node, len(cached_ids)).tolist()
            parent = int(layout.parents[node])
            before = paths[parent] if parent >= 0 else []
            if parent < -1:
                gone_on_from.add(cached[-2 - parent])
                before = [token for up in cached[: -1 - parent] for token in kept[up]]
            paths.append([*before, *layout.ids[first:last].tolist()])
            assert paths[node] == keys[path].tolist()
            assert layout.positions[first:last].tolist() == list(range(len(path) - (last - first), len(path)))
            for query in range(first, last):
                seen.append(tuple(keys[path[: len(path) - (last - 1 - query)]].tolist()))
        for node, first, last in layout.kept:
            kept[node] = layout.ids[first:last].tolist()
            if node in layout.continued:
                assert layout.segments.query_offsets[layout.continued[node]] == first
        continued.update(layout.continued)
    assert continued == gone_on_from
    assert len(seen) == len(set(seen))
    assert set(seen) == prefixes


@given(REQUESTS, st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_every_scored_token_is_one_pair_of_the_right_row(
    requests: list[tuple[list[int], list[int]]], budget: int
) -> None:
    want = {(i, len(a) + j): token for i, (a, b) in enumerate(requests) for j, token in enumerate(b)}
    found: dict[tuple[int, int], int] = {}
    for _, layout in layouts_of(requests, budget):
        assert layout.rows.tolist() == sorted(set(layout.rows.tolist()))
        pairs = list(zip(layout.rows[layout.pair_row].tolist(), layout.pair_target.tolist(), strict=True))
        assert len(pairs) == len(set(pairs)), "a (row, target) pair is computed twice"
        assert set(range(len(pairs))) == set(layout.scored_pair.tolist())
        for pair, i, position in zip(layout.scored_pair, layout.scored_sequence, layout.scored_position, strict=True):
            row, target = pairs[pair]
            assert layout.positions[row] == position - 1
            assert (int(i), int(position)) not in found
            found[int(i), int(position)] = target
    assert found == want


def test_worked_example_of_a_demonstration_with_two_probes() -> None:
    """Tokens scored after the bar: p1 p2 | p3 p4 and q1 | q2 q3 q4."""
    demonstration = [1, 2, 3, 4]
    ((_, layout),) = layouts_of([([*demonstration, 11, 12], [13, 14]), ([*demonstration, 21], [22, 23, 24])], 100)
    assert layout.ids.tolist() == [1, 2, 3, 4, 11, 12, 13, 21, 22, 23]
    assert layout.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6]
    pairs = zip(layout.ids[layout.rows[layout.pair_row]].tolist(), layout.pair_target.tolist(), strict=True)
    assert list(pairs) == [(12, 13), (13, 14), (21, 22), (22, 23), (23, 24)]


def test_the_last_token_of_a_prompt_is_one_row_with_many_targets() -> None:
    ((_, layout),) = layouts_of([([5, 6], [target]) for target in range(10, 30)], 100)
    assert layout.ids.tolist() == [5, 6]
    assert layout.rows.tolist() == [1]
    assert layout.pair_target.tolist() == list(range(10, 30))


def test_token_ids_up_to_31_bits_stay_apart() -> None:
    top = 2**31 - 1
    ((_, layout),) = layouts_of([([top, 0], [top]), ([top, 0], [top - 1])], 100)
    assert layout.pair_target.tolist() == [top - 1, top]
