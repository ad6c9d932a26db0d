"""Requests as planned trees: what of them runs together, what is scored of it, and in which steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from instsel.planning.layout import ScoredSpans, find_spans
from instsel.planning.packing import Step, plan_steps
from instsel.planning.prefix_tree import PrefixTree, build_prefix_tree


@dataclass(frozen=True, slots=True)
class PlannedTree:
    """Sequences that run the same way: as a tree of shared prefixes, or each by itself."""

    tree: PrefixTree
    spans: ScoredSpans
    steps: list[Step]
    alone: bool
    state_tokens: int = 0  # what a kept node's recurrent states are worth (`plan_steps`)

    @property
    def num_tokens(self) -> int:
        """Tokens to forward."""
        return self.tree.num_tokens

    def last_token(self, node: int) -> int:
        """Of the sequence that ends in a node; no part of the tree, since nothing is predicted from it."""
        return int(self.tree.tokens[self.tree.offsets[self.tree.source[node] + 1] - 1])

    def head_rows(self) -> int:
        """Distinct rows of which some token is scored: the union of each node's spans."""
        spans = self.spans
        if not len(spans.sequence):
            return 0
        node = np.repeat(np.arange(len(self.tree.parent)), np.diff(spans.by_node))
        order = np.lexsort((spans.first, node))
        # Nodes are set apart by more than any row number, so that one running maximum serves all of them.
        shift = node[order] * (int(spans.last.max()) + 1)
        first, last = spans.first[order] + shift, spans.last[order] + shift
        reached = np.concatenate([[0], np.maximum.accumulate(last)[:-1]])
        return int(np.maximum(last - np.maximum(first, reached), 0).sum())


def plan_trees(
    tokens: np.ndarray,
    offsets: np.ndarray,
    first_scored: np.ndarray,
    budget: int,
    shareable_length: int | None,
    state_tokens: int = 0,
) -> list[PlannedTree]:
    """Planned trees of all sequences; those longer than `shareable_length` (where there is such a limit) run alone.

    Sequences with `first_scored` 0 have nothing to score and are left out.
    """
    lengths = np.diff(offsets)
    wanted = first_scored > 0
    together = wanted if shareable_length is None else wanted & (lengths <= shareable_length)
    trees = []
    for chosen, alone in ((together, False), (wanted & ~together, True)):
        if not chosen.any():
            continue
        # A sequence that is not chosen keeps its place, with no tokens to forward.
        tree = build_prefix_tree(tokens, offsets, share=not alone, chosen=chosen)
        steps = plan_steps(tree, budget, alone=alone, state_tokens=state_tokens)
        trees.append(PlannedTree(tree, find_spans(tree, first_scored), steps, alone, state_tokens))
    return trees
