"""One step of a plan as arrays for the model: token ids, positions, attention segments and (row, target) pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instsel.kernels import TreeSegments
from instsel.planning.packing import Step
from instsel.planning.prefix_tree import PrefixTree


@dataclass(frozen=True, slots=True)
class ScoredSpans:
    """For each tree node, the runs of its rows at which some sequence has a token scored.

    A row is a path position; it predicts the token at the next position. Spans are ordered by node.
    """

    sequence: np.ndarray  # int64 [spans]
    first: np.ndarray  # int64 [spans], first row
    last: np.ndarray  # int64 [spans], one past the last row
    by_node: np.ndarray  # int64 [nodes + 1], where each node's spans begin


@dataclass(frozen=True, slots=True)
class Layout:
    """The arrays of one forward; `rows` are the pack tokens whose log-probabilities are needed, each once."""

    ids: np.ndarray  # int64 [T]
    positions: np.ndarray  # int64 [T]
    segments: TreeSegments
    kept: tuple[tuple[int, int, int], ...]  # (node, first, last) of the nodes whose keys and values are to be kept
    continued: dict[int, int]  # node: its place in the pack, of those kept that nodes outside the pack hang on
    parents: np.ndarray  # int64 [nodes]: a parent's place in the pack, -1 for a root, -2 - c for cached node c
    rows: np.ndarray  # int64 [R], ascending
    pair_row: np.ndarray  # int64 [P], index into rows; every (row, target) pair once
    pair_target: np.ndarray  # int64 [P]
    scored_pair: np.ndarray  # int64 [scored tokens], the pair of each scored token
    scored_sequence: np.ndarray  # int64 [scored tokens]
    scored_position: np.ndarray  # int64 [scored tokens], the token's position in its sequence

    def add_by_sequence(self, values: np.ndarray, total: np.ndarray) -> None:
        """Adds each scored token's value to its sequence's entry of `total`, summed in float64 in a fixed order."""
        begin = np.flatnonzero(np.diff(self.scored_sequence, prepend=-1))
        if len(begin):
            np.add.at(total, self.scored_sequence[begin], np.add.reduceat(values.astype(np.float64), begin))


def find_spans(tree: PrefixTree, first_scored: np.ndarray) -> ScoredSpans:
    """Spans of all sequences, of which sequence i has its tokens from `first_scored[i]` (at least 1) scored."""
    sequence = np.flatnonzero(tree.terminal >= 0)
    node = tree.terminal[sequence]
    low = first_scored[sequence] - 1
    high = np.diff(tree.offsets)[sequence] - 1
    found: list[tuple[np.ndarray, ...]] = []
    while len(sequence):
        start, end = tree.start[node], tree.end[node]
        first, last = np.maximum(low, start), np.minimum(high, end)
        filled = first < last
        found.append((node[filled], sequence[filled], first[filled], last[filled]))
        up = start > low
        sequence, low, high, node = sequence[up], low[up], high[up], tree.parent[node[up]]
    nodes, sequences, firsts, lasts = (
        np.concatenate(columns) if columns else np.zeros(0, np.int64)
        for columns in (zip(*found, strict=True) if found else [[]] * 4)
    )
    order = np.argsort(nodes, kind="stable")
    by_node = np.searchsorted(nodes[order], np.arange(len(tree.parent) + 1))
    return ScoredSpans(sequences[order], firsts[order], lasts[order], by_node)


def lay_out(tree: PrefixTree, spans: ScoredSpans, step: Step) -> Layout:
    """Arrays of one step; the pack holds its nodes one after another, in preorder."""
    nodes = step.nodes
    lengths = tree.lengths[nodes]
    begin = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(begin[-1]) - np.repeat(begin[:-1], lengths)
    positions = np.repeat(tree.start[nodes], lengths) + within
    ids = tree.tokens[np.repeat(tree.offsets[tree.source[nodes]], lengths) + positions].astype(np.int64)
    local = {node: i for i, node in enumerate(nodes.tolist())}
    kept = tuple((node, int(begin[local[node]]), int(begin[local[node] + 1])) for node in step.keep)
    segments = _segments(tree, step, local, begin)
    outside = {-1: -1, **{node: -2 - c for c, node in enumerate(step.cached)}}
    parents = np.array([local.get(up, outside.get(up, -1)) for up in tree.parent[nodes].tolist()], np.int64)
    continued = {node: local[node] for node in step.keep if any(c not in local for c in tree.children(node))}
    return Layout(ids, positions, segments, kept, continued, parents, *_pairs(tree, spans, nodes, begin))


def _segments(tree: PrefixTree, step: Step, local: dict[int, int], begin: np.ndarray) -> TreeSegments:
    """Key ranges that each node continues, with the cached path's keys before the pack's own."""
    cached_begin: dict[int, int] = {}
    num_cached = 0
    for node in step.cached:
        cached_begin[node] = num_cached
        num_cached += int(tree.end[node] - tree.start[node])
    ranges: list[list[tuple[int, int]]] = []
    for up in tree.parent[step.nodes].tolist():
        at = local.get(up)
        if up < 0:
            ranges.append([])
        elif at is None:  # the cached path lies in order of position: one range from its beginning
            ranges.append([(0, cached_begin[up] + int(tree.end[up] - tree.start[up]))])
        else:
            ranges.append(_joined(ranges[at], (num_cached + int(begin[at]), num_cached + int(begin[at + 1]))))
    return TreeSegments.from_lists(begin, ranges)


def _joined(ranges: list[tuple[int, int]], following: tuple[int, int]) -> list[tuple[int, int]]:
    """The ranges with one more at their end, merged with the last where they touch."""
    if ranges and ranges[-1][1] == following[0]:
        return [*ranges[:-1], (ranges[-1][0], following[1])]
    return [*ranges, following]


def _pairs(
    tree: PrefixTree, spans: ScoredSpans, nodes: np.ndarray, begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows, distinct (row, target) pairs, and the pair, sequence and position of every scored token."""
    counts = spans.by_node[nodes + 1] - spans.by_node[nodes]
    span = np.repeat(spans.by_node[nodes] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    node_of_span = np.repeat(np.arange(len(nodes)), counts)
    width = spans.last[span] - spans.first[span]
    within = np.arange(width.sum()) - np.repeat(np.cumsum(width) - width, width)
    position = np.repeat(spans.first[span], width) + within
    sequence = np.repeat(spans.sequence[span], width)
    token = np.repeat(begin[node_of_span] - tree.start[nodes[node_of_span]], width) + position
    target = tree.tokens[tree.offsets[sequence] + position + 1].astype(np.int64)
    # One number per (token, target); both are below 2**31, so the product stays within int64.
    distinct, scored_pair = np.unique(token << 32 | target, return_inverse=True)
    rows, pair_row = np.unique(distinct >> 32, return_inverse=True)
    return rows, pair_row, distinct & 0xFFFFFFFF, scored_pair, sequence, position + 1
