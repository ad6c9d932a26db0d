"""Sequences of token ids as a tree of shared prefixes.

A causal model predicts token t of a sequence from its tokens before t, so a sequence's last token is never
forwarded. The tree therefore holds `sequence[:-1]` of every sequence: its tokens are exactly the tokens that
have to go through the model once, which is the number of distinct tree tokens less the leaves' last tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_PAIRS_PER_BLOCK = 65_536  # bounds the temporaries of the prefix comparison, whatever the number of sequences


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Forwarded tokens of many sequences as a forest; nodes in preorder, so a subtree is a contiguous range of nodes.

    A node covers the path positions `start <= position < end` and its tokens are
    `tokens[offset + start : offset + end]`, where `offset` belongs to the sequence it was read from.
    """

    tokens: np.ndarray  # int32 [total], all sequences one after another
    offsets: np.ndarray  # int64 [sequences + 1], where each sequence begins in `tokens`
    parent: np.ndarray  # int64 [nodes], -1 for a root
    start: np.ndarray  # int64 [nodes], first path position
    end: np.ndarray  # int64 [nodes], one past the last path position
    source: np.ndarray  # int64 [nodes], a sequence that passes through the node
    subtree_end: np.ndarray  # int64 [nodes], one past the last node of the subtree
    terminal: np.ndarray  # int64 [sequences], node holding the last forwarded token; -1 where nothing is forwarded

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each node."""
        return self.end - self.start

    @property
    def num_tokens(self) -> int:
        """Tokens to forward: each distinct prefix token once."""
        return int((self.end - self.start).sum())

    def subtree_tokens(self) -> np.ndarray:
        """Tokens in each node's subtree, itself included."""
        total = np.concatenate([[0], np.cumsum(self.lengths)])
        return total[self.subtree_end] - total[:-1]

    def roots(self) -> np.ndarray:
        """Nodes without a parent."""
        return np.flatnonzero(self.parent < 0)

    def children(self, node: int) -> list[int]:
        """Children of one node, in preorder."""
        out, child = [], node + 1
        while child < self.subtree_end[node]:
            out.append(child)
            child = int(self.subtree_end[child])
        return out

    def ancestors(self, node: int) -> list[int]:
        """Ancestors of one node, root first."""
        out, up = [], int(self.parent[node])
        while up >= 0:
            out.append(up)
            up = int(self.parent[up])
        return out[::-1]


def concatenate(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All sequences in one int32 array, and the int64 offsets at which each begins (one more than sequences)."""
    offsets = np.zeros(len(sequences) + 1, np.int64)
    np.cumsum([len(s) for s in sequences], out=offsets[1:])
    tokens = np.concatenate([np.asarray(s, np.int32) for s in sequences]) if len(sequences) else np.zeros(0, np.int32)
    return tokens.astype(np.int32, copy=False), offsets


def build_prefix_tree(
    tokens: np.ndarray, offsets: np.ndarray, *, share: bool = True, chosen: np.ndarray | None = None
) -> PrefixTree:
    """Tree of the shared prefixes of `tokens[offsets[i] : offsets[i + 1] - 1]`, of the `chosen` sequences only.

    With `share=False` every distinct path becomes a root of its own, for models in which a token's state depends on
    more than its path.
    """
    lengths = np.maximum(np.diff(offsets) - 1, 0)
    if chosen is not None:
        lengths = np.where(chosen, lengths, 0)
    order = _lexicographic_order(tokens, offsets, lengths)
    ordered = lengths[order]
    shared = _common_prefix_with_next(tokens, offsets[:-1][order], ordered)
    # In this order a path stands directly before the paths that extend it: only a path that its successor does not
    # extend is a leaf of the tree, and every other one ends on the path of the next leaf.
    extended = shared == ordered if share else (shared == ordered) & (np.append(ordered[1:], -1) == ordered)
    is_leaf = ~extended & (ordered > 0)
    leaf_at = np.flatnonzero(is_leaf)
    leaf_of = np.searchsorted(leaf_at, np.arange(len(order)))
    source = order[leaf_at]
    depth = ordered[leaf_at]
    branch = np.zeros(len(leaf_at), np.int64)
    if share and len(leaf_at) > 1:
        # The common prefix of two leaves is the least over all the neighbours that lie between them.
        branch[1:] = np.minimum.reduceat(shared, leaf_at)[:-1]
    parent, first_leaf, start, end, subtree_end, last_node = _grow(depth.tolist(), branch.tolist())
    terminal = np.full(len(order), -1, np.int64)
    has_path = ordered > 0
    terminal[order[has_path]] = _climb(parent, start, last_node[leaf_of[has_path]], ordered[has_path])
    return PrefixTree(tokens, offsets, parent, start, end, source[first_leaf], subtree_end, terminal)


def _lexicographic_order(tokens: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Order of the sequences without their last tokens; big-endian bytes compare as the ids do."""
    data = tokens.astype(">u4").tobytes()
    starts = (4 * offsets[:-1]).tolist()
    ends = (4 * (offsets[:-1] + lengths)).tolist()
    keys = [data[a:b] for a, b in zip(starts, ends, strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _common_prefix_with_next(tokens: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Length of the common prefix of each sequence and its successor; 0 for the last."""
    count = len(starts)
    shared = np.zeros(count, np.int64)
    for first in range(0, count - 1, _PAIRS_PER_BLOCK):
        last = min(first + _PAIRS_PER_BLOCK, count - 1)
        width = np.minimum(lengths[first:last], lengths[first + 1 : last + 1])
        shared[first:last] = width
        filled = np.flatnonzero(width)
        if not len(filled):
            continue
        width = width[filled]
        begin = np.concatenate([[0], np.cumsum(width)[:-1]])
        within = np.arange(int(width.sum())) - np.repeat(begin, width)
        here = np.repeat(starts[first + filled], width) + within
        there = np.repeat(starts[first + filled + 1], width) + within
        # Positions that differ keep their index, equal ones count as the whole width: the least is the prefix.
        mismatch = np.where(tokens[here] != tokens[there], within, np.repeat(width, width))
        shared[first + filled] = np.minimum.reduceat(mismatch, begin)
    return shared


def _grow(
    depth: list[int], branch: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nodes from leaves in order, each with its depth and the depth at which it leaves the path of the one before."""
    parent: list[int] = []
    first_leaf: list[int] = []
    start: list[int] = []
    end: list[int] = []
    last_node: list[int] = []
    path: list[int] = []  # nodes from the root to the latest leaf
    for leaf, (leaf_depth, at) in enumerate(zip(depth, branch, strict=True)):
        while path and start[path[-1]] >= at:
            path.pop()
        if path and end[path[-1]] > at:  # the branch lies inside this node: its upper part becomes a node of its own
            lower = path.pop()
            upper = len(parent)
            parent.append(parent[lower])
            first_leaf.append(first_leaf[lower])
            start.append(start[lower])
            end.append(at)
            parent[lower], start[lower] = upper, at
            path.append(upper)
        parent.append(path[-1] if path else -1)
        first_leaf.append(leaf)
        start.append(at)
        end.append(leaf_depth)
        path.append(len(parent) - 1)
        last_node.append(len(parent) - 1)
    return _preorder(*(np.array(x, np.int64) for x in (parent, first_leaf, start, end, last_node)))


def _preorder(
    parent: np.ndarray, first_leaf: np.ndarray, start: np.ndarray, end: np.ndarray, last_node: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same nodes numbered in preorder, with the end of each subtree."""
    order = np.lexsort((start, first_leaf))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    parent = np.where(parent[order] < 0, -1, rank[parent[order]])
    subtree_end = np.arange(1, len(order) + 1)
    ends = subtree_end.tolist()
    for node, up in zip(range(len(order) - 1, -1, -1), parent[::-1].tolist(), strict=True):
        if up >= 0 and ends[node] > ends[up]:
            ends[up] = ends[node]
    return parent, first_leaf[order], start[order], end[order], np.array(ends, np.int64), rank[last_node]


def _climb(parent: np.ndarray, start: np.ndarray, node: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """From each node up to the one on its path that holds position `depth - 1`."""
    node = node.copy()
    above = np.flatnonzero(start[node] >= depth)
    while len(above):
        node[above] = parent[node[above]]
        above = above[start[node[above]] >= depth[above]]
    return node
