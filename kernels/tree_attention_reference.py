"""The specification of `tree_attention` in plain PyTorch: node by node, the whole score matrix in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from .attention_kinds import AttentionOptions
from .tree_segments import TreeSegments


def visible(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """bool [queries, keys]: the last `queries` of `keys` positions look back causally, at most `window` positions."""
    position = torch.arange(keys - queries, keys, device=device)[:, None]
    distance = position - torch.arange(keys, device=device)[None, :]
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def tree_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: TreeSegments, options: AttentionOptions
) -> Tensor:
    scaling, window, softcap, sinks = options
    out = torch.empty_like(query)
    num_cached = key.shape[0] - query.shape[0]
    group = query.shape[1] // key.shape[1]
    for node in range(segments.num_nodes):
        first, last = int(segments.query_offsets[node]), int(segments.query_offsets[node + 1])
        if first == last:
            continue
        path = segments.key_indices(node, num_cached).to(key.device)
        keys = key[path].float().repeat_interleave(group, dim=1)
        values = value[path].float().repeat_interleave(group, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query[first:last].float(), keys) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        seen = visible(last - first, path.shape[0], window, key.device)
        scores = scores.masked_fill(~seen, float("-inf"))
        if sinks is None:
            probabilities = torch.softmax(scores, dim=-1)
        else:
            sink = sinks[:, None, None].expand(-1, last - first, 1)
            probabilities = torch.softmax(torch.cat([scores, sink], dim=-1), dim=-1)[:, :, :-1]
        out[first:last] = weighted_sums(probabilities, values, seen).to(out.dtype)
    return out


def weighted_sums(probabilities: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    """`sum_k probabilities[h, q, k] values[k, h, d]` over the keys that row q sees, for [Q, H, D].

    A probability of 0 times an infinite value of an unseen key would be NaN, so that what is not finite is added apart.
    """
    finite = values.nan_to_num(0.0, 0.0, 0.0)
    sums = torch.einsum("hqk,khd->qhd", probabilities, finite)
    rest = values - finite
    for key in (rest != 0).flatten(1).any(dim=1).nonzero().flatten().tolist():
        rows = seen[:, key]
        sums[rows] += probabilities[:, rows, key].T[:, :, None] * rest[key]
    return sums
