"""Attention of a packed prefix tree: every token sees its ancestors and, causally, its own node."""

from __future__ import annotations

import math

from torch import Tensor

from .attention_kinds import AttentionKind, AttentionOptions, implementation
from .attention_probes import backend_failure
from .backends import choose_backend, triton_error
from .devices import current
from .tree_segments import TreeSegments
from .validation import FLOATS, check_length, check_positive, check_tensor
from .varlen_attention import varlen_error

# Flash attention over varlen segments copies every path's keys and values. Up to this many copies of a key that costs
# less than its better kernel gains (a copy is one more write and read, in a pass bound by arithmetic); with more, as
# with a long prefix and many short answers, the copies are the larger part of the bytes moved.
LARGEST_COPY_RATIO = 3


def choose_attention_backend(
    backend: str, query: Tensor, key: Tensor, segments: TreeSegments, options: AttentionOptions
) -> str:
    """As `choose_backend`, with flash attention over gathered paths ("varlen") as one more on a GPU.

    There "auto" is the first that agrees with the reference for calls of this kind, by what is copied: see
    `attention_probes`.
    """
    if backend != "varlen" and (backend != "auto" or query.device.type != "cuda"):
        return choose_backend(backend, query.device)
    kind = AttentionKind(
        query.device,
        query.dtype,
        query.shape[2],
        query.shape[1] // key.shape[1],
        options.window is not None,
        options.softcap is not None,
        options.sinks is not None,
    )
    error = varlen_error(kind)
    if backend == "varlen":
        if error is not None:
            raise ValueError(f"backend: 'varlen' cannot be used: {error}")
        return backend
    copied = int(segments.context_length @ segments.query_offsets.diff().clamp(max=1).long()) + query.shape[0]
    order = ("varlen", "triton") if copied <= LARGEST_COPY_RATIO * key.shape[0] else ("triton", "varlen")
    possible = {"varlen": error is None, "triton": triton_error(query.device) is None}
    for name in order:
        if possible[name] and backend_failure(name, kind) is None:
            return name
    return "reference" if possible["triton"] else choose_backend(backend, query.device)


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: TreeSegments,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    backend: str = "auto",
    find_again: bool = True,
) -> Tensor:
    """Softmax attention in which the queries of each tree node see the node's ancestors fully and itself causally.

    For query i of a node whose path (ancestors' keys root first, then its own) has its first own token at position c:
    `s_j = scaling * q_i . k_j`, then `s_j = softcap * tanh(s_j / softcap)` if given, over the path's positions
    `j <= c + i`, and with a window only those with `c + i - j < window`; the result is `sum_j softmax(s)_j v_j`. With
    sinks the softmax has one more logit, `sinks[h]` for query head h, neither scaled nor capped and without a value.
    Scores, softmax and sums are float32 whatever the dtype.

    query     [T, heads, d] float32, float16 or bfloat16, contiguous in d
    key       [K, kv_heads, d] of the same dtype, K >= T: the first K - T keys are cached, then the pack's own; query
              head h reads key head `h // (heads / kv_heads)`
    value     as key
    segments  the nodes (see `TreeSegments`); made once for a pack, used by all layers
    scaling   default 1 / sqrt(d)
    sinks     [heads] float32, float16 or bfloat16, or None
    backend   "auto", "reference", "cpu" (C++), "triton" or "varlen" (flash attention over gathered paths)
    find_again  False saves "triton" and "varlen" a launch, after which a value that is not finite may make NaN of rows
              that do not see it: for a caller that looks for these and calls again

    Gives [T, heads, d] of the query's dtype, contiguous. Raises TypeError or ValueError naming the parameter.

    >>> import torch
    >>> from instsel.kernels import TreeSegments, tree_attention
    >>> segments = TreeSegments.from_lists([0, 1, 2, 3], [[], [(0, 1)], [(0, 1)]])  # a token with two children
    >>> zero, value = torch.zeros(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1)
    >>> tree_attention(zero, zero, value, segments, backend="reference").flatten()
    tensor([1.0000, 1.5000, 2.5000])
    """
    check_tensor("query", query, 3, FLOATS, None)
    check_tensor("key", key, 3, (query.dtype,), query.device)
    check_tensor("value", value, 3, (query.dtype,), query.device)
    heads, head_size = query.shape[1:]
    if key.shape != value.shape:
        raise ValueError(f"value: expected the shape of key {tuple(key.shape)}, got {tuple(value.shape)}")
    if key.shape[2] != head_size or key.shape[1] == 0 or heads % key.shape[1]:
        raise ValueError(
            f"key: expected {head_size} columns and a number of heads that divides {heads}, got shape "
            f"{tuple(key.shape)}"
        )
    if not isinstance(segments, TreeSegments):
        raise TypeError(f"segments: expected TreeSegments, got {type(segments).__name__}")
    if segments.num_queries != query.shape[0]:
        raise ValueError(f"segments: expected nodes of {query.shape[0]} queries in all, got {segments.num_queries}")
    if key.shape[0] < query.shape[0]:
        raise ValueError(f"key: expected at least {query.shape[0]} rows, one per query, got {key.shape[0]}")
    if segments.last_key > key.shape[0]:
        raise ValueError(
            f"segments: expected key ranges within {key.shape[0]} keys, got one that ends at {segments.last_key}"
        )
    check_positive("scaling", scaling)
    check_positive("softcap", softcap)
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"window: expected None or a positive integer, got {window!r}")
    if sinks is not None:
        check_tensor("sinks", sinks, 1, FLOATS, query.device)
        check_length("sinks", sinks, heads, "the number of query heads")
        sinks = sinks.detach().float().contiguous()
    scale = 1.0 / math.sqrt(head_size) if scaling is None else float(scaling)
    options = AttentionOptions(scale, window, softcap, sinks)
    chosen = choose_attention_backend(backend, query, key, segments, options)
    run = implementation(chosen)
    # Kernels read a head's numbers one after the other.
    tensors = (x.detach() if x.stride(2) == 1 else x.detach().contiguous() for x in (query, key, value))
    more = {"find_again": find_again} if chosen in ("triton", "varlen") else {}  # others never multiply these
    with current(query.device):
        return run(*tensors, segments, options, **more)
