"""Convolutions and recurrences along a tree on the CPU: a pack in one C++ call; float16 in float32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .native_arrays import Machine, array_of, contiguous_array
from .tree_nodes import TreeNodes


def tree_convolution(
    x: Tensor,
    weight: Tensor,
    nodes: TreeNodes,
    *,
    bias: Tensor | None,
    activation: str | None,
    initial: Tensor | None,
    keep: Sequence[int],
) -> tuple[Tensor, Tensor]:
    from . import _native

    rows = _rows(x)
    reach = weight.shape[1] - 1, x.shape[1]
    out, ends = rows.new_empty(x.shape), rows.new_empty(len(keep), *reach)
    begun = rows.new_empty(0, *reach) if initial is None else initial.to(rows.dtype).contiguous()
    _native.tree_convolution(
        array_of(rows),
        array_of(weight.float().T.contiguous()),
        None if bias is None else contiguous_array(bias.float()),
        activation == "silu",
        nodes.offsets,
        nodes.parents,
        array_of(begun),
        np.array(keep, np.int64),
        array_of(out),
        array_of(ends),
        *Machine.now(),
    )
    return out.to(x.dtype), ends.to(x.dtype)


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
    from . import _native

    shape = value.shape[1], query.shape[2], value.shape[2]
    out, states, begun = _results(value, shape, initial, keep)
    _native.tree_delta_rule(
        array_of(_rows(query)),
        array_of(_rows(key)),
        array_of(_rows(value)),
        array_of(_rows(decay)),
        array_of(_rows(beta)),
        query.shape[1],
        value.shape[1],
        scaling,
        normalize,
        nodes.offsets,
        nodes.parents,
        array_of(begun),
        np.array(keep, np.int64),
        array_of(out.flatten(1)),
        array_of(states),
        *Machine.now(),
    )
    return out.to(value.dtype), states


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
    from . import _native

    shape = x.shape[1], write.shape[2], x.shape[2]
    out, states, begun = _results(step_size.new_empty(x.shape), shape, initial, keep)
    _native.tree_scan(
        array_of(_rows(x)),
        array_of(_rows(step_size)),
        array_of(rate.reshape(len(rate), -1).contiguous()),
        array_of(_rows(write)),
        array_of(_rows(read)),
        contiguous_array(skip),
        write.shape[1],
        nodes.offsets,
        nodes.parents,
        array_of(begun),
        np.array(keep, np.int64),
        array_of(out.flatten(1)),
        array_of(states),
        *Machine.now(),
    )
    return out, states


def _rows(x: Tensor) -> Tensor:
    """A token's numbers in one row without gaps, in a dtype that the kernels have."""
    x = x.float() if x.dtype == torch.float16 else x
    rows = x.flatten(1)
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _results(
    value: Tensor, shape: tuple[int, int, int], initial: Tensor | None, keep: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for output and kept states, and the initial states, none if None."""
    dtype = torch.float32 if value.dtype == torch.float16 else value.dtype
    out = torch.empty(value.shape, dtype=dtype)
    begun = torch.empty(0, *shape, dtype=torch.float32) if initial is None else initial.contiguous()
    return out, torch.empty(len(keep), *shape, dtype=torch.float32), begun
