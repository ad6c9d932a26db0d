"""What a node's recurrent states weigh, and when they are let go: as soon as nothing is left that goes on from them.

A node's keys and values are as many as its tokens; a state is of one size, which may be that of hundreds of tokens
(1 MiB a layer with 16 heads of 128 times 128 numbers), whatever the node's length.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from instsel.layers.attention import NodeCache
from instsel.planning.packing import Step
from instsel.planning.prefix_tree import PrefixTree


def state_bytes(kept: Iterable[NodeCache]) -> int:
    """Of the node with the largest states; 0 where no layer has any."""
    return max((sum(one.nbytes for one in node if isinstance(one, Tensor)) for node in kept), default=0)


class KeptStates:
    """Counts, of each node that is kept, the children that are still to be run."""

    def __init__(self, tree: PrefixTree) -> None:
        self._tree = tree
        self._waiting: dict[int, int] = {}

    def ran(self, step: Step, caches: dict[int, NodeCache]) -> None:
        """Takes from the caches the states of nodes whose last children ran in this step; keys and values stay."""
        parents = self._tree.parent[step.nodes]
        for node in (*step.cached, *step.keep):
            left = self._waiting.pop(node, None)
            left = len(self._tree.children(node)) if left is None else left
            left -= int(np.count_nonzero(parents == node))
            if left:
                self._waiting[node] = left
            elif node in caches:
                caches[node] = [None if isinstance(one, Tensor) else one for one in caches[node]]
