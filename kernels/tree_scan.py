"""Scan of a state space along a packed prefix tree: a node's first token goes on from its parent's last state."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .devices import current
from .recurrence_backends import DTYPES, check_initial, check_nodes, check_shape, choose_implementation, state_dtype
from .tree_nodes import TreeNodes
from .validation import check_tensor


def tree_scan(
    x: Tensor,
    step_size: Tensor,
    rate: Tensor,
    write: Tensor,
    read: Tensor,
    nodes: TreeNodes,
    *,
    skip: Tensor | None = None,
    initial: Tensor | None = None,
    keep: Sequence[int] = (),
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Selective state space (Mamba, Mamba-2), in which each tree node goes on from its parent's last state.

    Of each head and token, with the state S [d_state, d] of the token before: `S = exp(step_size rate) S +
    write (step_size x)^T`, and the result is `read^T S + skip x`. States, sums and results are float32 (float64 of
    float64). Mamba's scan has heads of one channel each and a rate for each row of the state.

    x          [T, heads, d] float32, float16, bfloat16 or float64, contiguous in d
    step_size  [T, heads] float32 (float64 of float64), after its bias, softplus and limits: dt
    rate       [heads], or [heads, d_state] for one a row of the state, as step_size, at most 0: A
    write      [T, groups, d_state] of x's dtype, contiguous in d_state: B; head h reads group `h // (heads / groups)`
    read       as write: C
    nodes      the nodes (see `TreeNodes`)
    skip       [heads] as step_size, or None: D
    initial    [nodes.num_initial, heads, d_state, d] as step_size: states that earlier packs ended with
    keep       nodes whose last states are given back
    backend    "auto", "reference", "cpu" (C++) or "triton"

    Gives [T, heads, d] and [len(keep), heads, d_state, d], both of step_size's dtype, contiguous. Raises TypeError or
    ValueError naming the parameter.

    >>> import torch
    >>> from instsel.kernels import TreeNodes, tree_scan
    >>> nodes = TreeNodes.from_lists([0, 1, 2, 3], [-1, 0, 0])  # a token with two children
    >>> x, one = torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1), torch.ones(3, 1, 1)
    >>> rate = torch.tensor([0.5]).log()
    >>> tree_scan(x, one[:, 0], rate, one, one, nodes, backend="reference")[0].flatten()
    tensor([1.0000, 2.5000, 4.5000])
    """
    check_tensor("x", x, 3, DTYPES, None)
    state = state_dtype(x.dtype)
    tokens, heads, size = x.shape
    check_shape("step_size", step_size, (tokens, heads), state, x.device)
    check_tensor("write", write, 3, (x.dtype,), x.device)
    groups, rows = write.shape[1:]
    if write.shape[0] != tokens or groups == 0 or heads % groups or not rows:
        raise ValueError(
            f"write: expected {tokens} rows and a number of groups that divides {heads}, got shape {tuple(write.shape)}"
        )
    per_row = (rows,) if isinstance(rate, Tensor) and rate.ndim == 2 else ()
    check_shape("rate", rate, (heads, *per_row), state, x.device)
    check_shape("read", read, write.shape, x.dtype, x.device)
    check_nodes(nodes, tokens, keep)
    if skip is not None:
        check_shape("skip", skip, (heads,), state, x.device)
    check_initial(initial, nodes, (heads, rows, size), state, x.device)
    run = choose_implementation(backend, x, "tree_scan")
    tensors = (y.detach() for y in (x, step_size, rate, write, read))
    skip, initial = (None if y is None else y.detach() for y in (skip, initial))
    with current(x.device):
        return run(*tensors, nodes, skip=skip, initial=initial, keep=tuple(keep))
