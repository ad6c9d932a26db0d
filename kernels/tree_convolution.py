"""Short causal convolution along a packed prefix tree: a node's first tokens see the last inputs of its path."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .devices import current
from .recurrence_backends import DTYPES, check_initial, check_nodes, check_shape, choose_implementation
from .tree_nodes import TreeNodes
from .validation import check_tensor

LARGEST_WIDTH = 64


def tree_convolution(
    x: Tensor,
    weight: Tensor,
    nodes: TreeNodes,
    *,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial: Tensor | None = None,
    keep: Sequence[int] = (),
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Causal convolution of each channel, in which a token of a tree node sees its own path alone.

    `out_t = activation(bias + sum_k weight[:, k] x_(t - K + 1 + k))` over the last K tokens of the path up to t; before
    a path's first token stand zeros. Sums are float32 (float64 of float64) and rounded once.

    x           [T, C] float32, float16, bfloat16 or float64, contiguous in C
    weight      [C, K] of the same dtype, K at most 64
    nodes       the nodes (see `TreeNodes`)
    bias        [C] of the same dtype, or None
    activation  "silu" or None
    initial     [nodes.num_initial, K - 1, C] of the same dtype: the last inputs of paths that earlier packs ended with
    keep        nodes whose paths' last inputs are given back
    backend     "auto", "reference", "cpu" (C++) or "triton"

    Gives [T, C] and [len(keep), K - 1, C], both of x's dtype, contiguous. Raises TypeError or ValueError naming the
    parameter.

    >>> import torch
    >>> from instsel.kernels import TreeNodes, tree_convolution
    >>> nodes = TreeNodes.from_lists([0, 1, 2, 3], [-1, 0, 0])  # a token with two children
    >>> x, weight = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[10.0, 1.0]])
    >>> tree_convolution(x, weight, nodes, backend="reference")[0].flatten()
    tensor([ 1., 12., 14.])
    """
    check_tensor("x", x, 2, DTYPES, None)
    check_tensor("weight", weight, 2, (x.dtype,), x.device)
    channels, width = weight.shape
    if channels != x.shape[1] or not 1 <= width <= LARGEST_WIDTH:
        raise ValueError(
            f"weight: expected shape ({x.shape[1]}, K) with K from 1 to {LARGEST_WIDTH}, got {tuple(weight.shape)}"
        )
    check_nodes(nodes, x.shape[0], keep)
    if bias is not None:
        check_shape("bias", bias, (channels,), x.dtype, x.device)
    if activation not in (None, "silu"):
        raise ValueError(f'activation: expected "silu" or None, got {activation!r}')
    check_initial(initial, nodes, (width - 1, channels), x.dtype, x.device)
    run = choose_implementation(backend, x, "tree_convolution", ("reference", "triton"))
    tensors = x.detach(), weight.detach(), nodes
    bias, initial = (None if y is None else y.detach() for y in (bias, initial))
    with current(x.device):
        return run(*tensors, bias=bias, activation=activation, initial=initial, keep=tuple(keep))
