"""The nodes of a tree level by level, for Triton kernels in which all nodes of a level run at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .devices import to_device
from .tree_nodes import TreeNodes

SCRATCH = 64  # leaves of several chunks in one launch, whose states need a place that no other node reads


class TreeLevels(NamedTuple):
    """Launches of nodes, level after level, and where the nodes' states lie.

    A state that children go on from stays in its place until their level has run: the places of a level and of the next
    alternate. Arrays are int32, on the device, with an entry a node in order of the launches.
    """

    launches: list[tuple[int, int]]  # entries, first and behind the last
    first: Tensor  # the node's tokens
    last: Tensor
    origin: Tensor  # the place of the state that it goes on from; -1: zeros; -2 - c: initial state c
    place: Tensor  # where its own states go; -1: nowhere
    kept: Tensor  # its place among the states that are given back, or -1
    num_places: int


def tree_levels(nodes: TreeNodes, keep: Sequence[int], chunk: int, device: torch.device) -> TreeLevels:
    """The plan of a tree on a device, made once for all layers."""
    plan = ("levels", tuple(keep), chunk, device)
    if plan not in nodes.plans:
        nodes.plans[plan] = _find_levels(nodes, keep, chunk, device)
    found: TreeLevels = nodes.plans[plan]
    return found


def _find_levels(nodes: TreeNodes, keep: Sequence[int], chunk: int, device: torch.device) -> TreeLevels:
    parents, count = nodes.parents, len(nodes)
    levels = np.zeros(count, np.int64)
    for node, parent in enumerate(parents.tolist()):
        levels[node] = levels[parent] + 1 if parent >= 0 else 0
    is_parent = np.zeros(count, bool)
    is_parent[parents[parents >= 0]] = True
    needs_scratch = ~is_parent & (np.diff(nodes.offsets) > chunk)
    order = np.lexsort((needs_scratch, levels))
    place = np.full(count, -1)
    largest = int(np.bincount(levels[is_parent]).max(initial=0))
    launches: list[tuple[int, int]] = []
    begin, scratch = 0, 0
    for level, size in enumerate(np.bincount(levels).tolist()):
        members = order[begin : begin + size]
        inner, long = members[is_parent[members]], members[needs_scratch[members]]
        place[inner] = level % 2 * largest + np.arange(len(inner))
        place[long] = 2 * largest + np.arange(len(long)) % SCRATCH
        scratch = max(scratch, min(len(long), SCRATCH))
        stops = [*range(begin + size - len(long) + SCRATCH, begin + size, SCRATCH), begin + size]
        launches += zip([begin, *stops], stops, strict=False)
        begin += size
    kept = np.full(count, -1)
    kept[list(keep)] = np.arange(len(keep))
    origin = np.where(parents >= 0, place[np.maximum(parents, 0)], parents) if count else parents
    arrays = (nodes.offsets[:-1], nodes.offsets[1:], origin, place, kept)
    flat = torch.from_numpy(np.concatenate([array[order] for array in arrays]).astype(np.int32))
    first, last, origins, places, kept_places = to_device(flat, device).split([count] * 5)
    return TreeLevels(launches, first, last, origins, places, kept_places, 2 * largest + scratch)
