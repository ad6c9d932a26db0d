"""`tree_delta_rule` in Triton."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .tree_nodes import TreeNodes
from .triton_tree_recurrence import tree_recurrence


def tree_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    beta: Tensor,
    nodes: TreeNodes,
    *,
    scaling: float,
    normalize: bool,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return tree_recurrence(
        query, key, value, decay, beta, None, None, nodes, scaling, normalize, initial, keep, value.dtype
    )
