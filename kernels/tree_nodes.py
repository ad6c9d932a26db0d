"""The nodes of a packed prefix tree, each with what it goes on from: for convolutions and recurrences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Integers = Sequence[int] | np.ndarray  # a sequence of ints or an integer NumPy array


@dataclass(frozen=True, slots=True, eq=False)
class TreeNodes:
    """The nodes of a pack, each a run of consecutive tokens that goes on from where another node ended.

    Node n owns the tokens `offsets[n]:offsets[n + 1]` (the offsets run from 0 to T, in order) and goes on from
    - nothing, if `parents[n]` is -1;
    - the last token of node `parents[n]`, which comes before it in the pack;
    - the initial state `c`, one of `num_initial` that earlier packs ended with, if `parents[n]` is `-2 - c`.

    Both fields are int64 arrays. `from_lists` checks and builds them.

    >>> from instsel.kernels import TreeNodes  # a root of 4 tokens with two children, of 3 tokens and 1
    >>> TreeNodes.from_lists([0, 4, 7, 8], [-1, 0, 0]).num_tokens
    8
    """

    offsets: np.ndarray
    parents: np.ndarray
    num_initial: int = 0
    # What a backend derives from the fields above, kept because every layer of a model uses the same nodes.
    plans: dict[object, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def from_lists(cls, offsets: Integers, parents: Integers, num_initial: int = 0) -> TreeNodes:
        """From the offsets of the nodes' tokens and, per node, its parent; ValueError names what is inconsistent."""
        begins, origins = (np.array(values, np.int64).reshape(-1) for values in (offsets, parents))
        if len(begins) == 0 or begins[0] != 0 or np.any(np.diff(begins) < 0):
            raise ValueError(f"offsets: expected non-decreasing offsets from 0, got {begins[:8].tolist()}")
        if len(origins) != len(begins) - 1:
            raise ValueError(f"parents: expected {len(begins) - 1} entries, one per node, got {len(origins)}")
        if isinstance(num_initial, bool) or not isinstance(num_initial, int) or num_initial < 0:
            raise ValueError(f"num_initial: expected a number of initial states, got {num_initial!r}")
        wrong = np.flatnonzero((origins >= np.arange(len(origins))) | (origins < -1 - num_initial))
        if len(wrong):
            raise ValueError(
                f"parents: expected an earlier node, -1 or -2 - c of {num_initial} initial states, got "
                f"{origins[wrong[0]]} of node {wrong[0]}"
            )
        return cls(begins, origins, num_initial)

    @property
    def num_tokens(self) -> int:
        return int(self.offsets[-1])

    def __len__(self) -> int:
        return len(self.parents)

    def check_kept(self, keep: Sequence[int]) -> None:
        """ValueError unless all are nodes, each once."""
        for node in keep:
            if not 0 <= node < len(self):
                raise ValueError(f"keep: expected nodes from 0 to {len(self) - 1}, got {node!r}")
        if len(set(keep)) < len(keep):
            raise ValueError(f"keep: expected different nodes, got {list(keep)}")
