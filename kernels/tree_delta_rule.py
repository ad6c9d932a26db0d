"""Gated delta rule along a packed prefix tree: a node's first token goes on from its parent's last state."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .devices import current
from .recurrence_backends import DTYPES, check_initial, check_nodes, check_shape, choose_implementation, state_dtype
from .tree_nodes import TreeNodes
from .validation import check_positive, check_tensor


def tree_delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    beta: Tensor,
    nodes: TreeNodes,
    *,
    scaling: float | None = None,
    normalize: bool = False,
    initial: Tensor | None = None,
    keep: Sequence[int] = (),
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Linear attention by the gated delta rule, in which each tree node goes on from its parent's last state.

    Of each head and token, with the state S [d_k, d_v] of the token before: `S = exp(decay) S`, then
    `S = S + k (beta (v - k^T S))^T`, and the result is `scaling q^T S`. States and sums are float32 (float64 of
    float64).

    query      [T, key heads, d_k] float32, float16, bfloat16 or float64, contiguous in d_k
    key        as query
    value      [T, heads, d_v] of the same dtype; head h reads key head `h // (heads / key heads)`
    decay      [T, heads], or [T, heads, d_k] for one a row of the state; float32 (float64 of float64), at most 0
    beta       [T, heads] as decay
    nodes      the nodes (see `TreeNodes`)
    scaling    default 1 / sqrt(d_k)
    normalize  whether queries and keys are divided by `sqrt(sum(x^2) + 1e-6)` first
    initial    [nodes.num_initial, heads, d_k, d_v] float32 (float64 of float64): states that earlier packs ended with
    keep       nodes whose last states are given back
    backend    "auto", "reference", "cpu" (C++) or "triton"

    Gives [T, heads, d_v] of value's dtype and [len(keep), heads, d_k, d_v] as `initial`, contiguous. Raises TypeError
    or ValueError naming the parameter.

    >>> import torch
    >>> from instsel.kernels import TreeNodes, tree_delta_rule
    >>> nodes = TreeNodes.from_lists([0, 1, 2, 3], [-1, 0, 0])  # a token with two children
    >>> one, value = torch.ones(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1)
    >>> half = torch.full((3, 1), 0.5)
    >>> tree_delta_rule(one, one, value, half.log(), half, nodes, backend="reference")[0].flatten()
    tensor([0.5000, 1.1250, 2.1250])
    """
    check_tensor("query", query, 3, DTYPES, None)
    check_shape("key", key, query.shape, query.dtype, query.device)
    check_tensor("value", value, 3, (query.dtype,), query.device)
    tokens, key_heads, key_size = query.shape
    heads, value_size = value.shape[1:]
    if value.shape[0] != tokens or key_heads == 0 or heads % key_heads or not key_size:
        raise ValueError(
            f"value: expected {tokens} rows and a number of heads that {key_heads} divides, got shape "
            f"{tuple(value.shape)}"
        )
    state = state_dtype(query.dtype)
    per_row = (key_size,) if isinstance(decay, Tensor) and decay.ndim == 3 else ()
    check_shape("decay", decay, (tokens, heads, *per_row), state, query.device)
    check_shape("beta", beta, (tokens, heads), state, query.device)
    check_nodes(nodes, tokens, keep)
    check_positive("scaling", scaling)
    check_initial(initial, nodes, (heads, key_size, value_size), state, query.device)
    run = choose_implementation(backend, query, "tree_delta_rule")
    tensors = (x.detach() for x in (query, key, value, decay, beta))
    scale = 1.0 / math.sqrt(key_size) if scaling is None else float(scaling)
    begun = None if initial is None else initial.detach()
    with current(query.device):
        return run(*tensors, nodes, scaling=scale, normalize=bool(normalize), initial=begun, keep=tuple(keep))
