"""The nodes of a pack as convolutions and recurrences see them: what each goes on from, and levels to run at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from instsel.kernels import TreeNodes
from instsel.kernels.devices import to_device

_SHORTEST = 16  # nodes of up to so many tokens are run together, as if they were equally long


@dataclass(slots=True)
class Level:
    """Nodes that a scan runs at once; all tensors int64.

    nodes   their places in the pack
    tokens  [n, L]: their tokens, and the number of the pack's tokens where a node has no more
    filled  [m]: which of the n * L places have a token
    own     [m]: those tokens
    """

    nodes: list[int]
    tokens: Tensor
    filled: Tensor
    own: Tensor


@dataclass(slots=True)
class Context:
    """What a convolution reads, over the inputs `[0 | of each initial state its last ones | pack]`; all int64.

    order  [N * width + T]: every node's tokens after the inputs that its path had before
    own    [T]: where the pack's tokens stand in it
    last   [N, width]: the last inputs of each node's path
    """

    order: Tensor
    own: Tensor
    last: Tensor


@dataclass(slots=True)
class PackTree:
    """The nodes of a pack one after another, each with what it continues.

    nodes    their offsets and parents, of which the initial states are those of `initial`
    initial  the cached nodes of the path that nodes of the pack go on from, by their places in it
    """

    nodes: TreeNodes
    initial: list[int]
    device: torch.device
    _contexts: dict[int, Context] = field(default_factory=dict)  # by width
    _levels: list[Level] | None = None

    @classmethod
    def of(cls, offsets: np.ndarray, parents: np.ndarray, device: torch.device) -> PackTree:
        """Parents are places in the pack, -1 for none, or -2 - c for cached node c of the path."""
        initial, order = np.unique(-2 - parents[parents < -1], return_inverse=True)
        origins = parents.copy()
        origins[parents < -1] = -2 - order
        return cls(TreeNodes.from_lists(offsets, origins, len(initial)), initial.tolist(), device)

    def levels(self) -> list[Level]:
        """Nodes to be run at once, parents before their children."""
        if self._levels is None:
            self._levels = [self._level(nodes) for nodes in self._alike()]
        return self._levels

    def _alike(self) -> Iterable[list[int]]:
        """Nodes of one depth and of about one length, so that little is filled up."""
        parents = self.nodes.parents
        depth = np.zeros(len(parents), np.int64)
        for node, parent in enumerate(parents.tolist()):  # parents come before their children
            depth[node] = depth[parent] + 1 if parent >= 0 else 0
        lengths = np.maximum(np.diff(self.nodes.offsets), _SHORTEST)
        kind = np.stack([depth, np.ceil(np.log2(lengths)).astype(np.int64)], axis=1)
        order = np.lexsort((kind[:, 1], kind[:, 0]))
        begins = np.flatnonzero(np.any(np.diff(kind[order], axis=0, prepend=-1), axis=1))
        return [part.tolist() for part in np.split(order, begins[1:])]

    def _level(self, nodes: list[int]) -> Level:
        offsets = self.nodes.offsets
        lengths = np.diff(offsets)[nodes]
        place = np.arange(lengths.max(initial=0))
        there = place < lengths[:, None]
        tokens = np.where(there, offsets[nodes][:, None] + place, offsets[-1])
        return Level(nodes, *map(self._to_device, (tokens, np.flatnonzero(there), tokens[there])))

    def context(self, width: int) -> Context:
        """What a convolution that reaches back `width` tokens reads."""
        if width not in self._contexts:
            offsets, parents = self.nodes.offsets, self.nodes.parents
            begin = 1 + self.nodes.num_initial * width
            last = np.zeros((len(parents), width), np.int64)
            order, own = [], []
            for node, parent in enumerate(parents.tolist()):
                before = last[parent] if parent >= 0 else np.zeros(width, np.int64)
                if parent < -1:
                    before = 1 + (-2 - parent) * width + np.arange(width)
                tokens = begin + np.arange(offsets[node], offsets[node + 1])
                order.append(np.concatenate([before, tokens]))
                own.append(np.arange(len(order[-1])) >= width)
                last[node] = order[-1][len(order[-1]) - width :]
            parts = np.concatenate(order), np.flatnonzero(np.concatenate(own)), last
            self._contexts[width] = Context(*map(self._to_device, parts))
        return self._contexts[width]

    def _to_device(self, values: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(values), self.device)
