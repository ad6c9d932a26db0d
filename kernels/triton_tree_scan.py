"""`tree_scan` in Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .tree_nodes import TreeNodes
from .triton_tree_recurrence import tree_recurrence


def tree_scan(
    x: Tensor,
    step_size: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    nodes: TreeNodes,
    *,
    skip: Tensor | None,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return tree_recurrence(read, write, x, None, step_size, rate, skip, nodes, 1.0, False, initial, keep, torch.float32)
