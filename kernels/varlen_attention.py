"""`tree_attention` by flash attention over varlen segments: each node's path of keys and values is gathered.

The flash-attn package where it is installed, torch's own varlen attention otherwise.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from .attention_kinds import AttentionKind, AttentionOptions
from .backends import triton_error, version_outside
from .devices import to_device
from .tree_segments import TreeSegments

FLASH_ATTN_VERSIONS = ">=2.6"


@functools.cache
def has_flash_attn() -> bool:
    """Whether the flash-attn package is there, in a version that has a soft-cap and windows, with what is called of it.

    Packages of later generations bring the same folder without this function.
    """
    if importlib.util.find_spec("flash_attn") is None or version_outside("flash-attn", FLASH_ATTN_VERSIONS):
        return False
    try:
        return hasattr(importlib.import_module("flash_attn"), "flash_attn_varlen_func")
    except Exception:  # built for another torch or another system library
        return False


@functools.cache
def torch_varlen_options() -> frozenset[str]:
    """The parameters of torch's varlen attention; none where it is not."""
    try:
        import inspect

        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def has_torch_varlen() -> bool:
    """torch's varlen attention with grouped heads and a window exists from torch 2.12 on."""
    return {"enable_gqa", "window_size", "num_splits"} <= torch_varlen_options()


def varlen_error(kind: AttentionKind) -> str | None:
    """Why flash attention cannot run such calls, or None if nothing that is known beforehand speaks against it."""
    if kind.device.type != "cuda":
        return f"flash attention needs GPU tensors and these are on {kind.device}"
    if kind.dtype == torch.float32:
        return "flash attention has no float32"
    if kind.head_size > 256 or kind.head_size % 8:
        return f"flash attention has head sizes of multiples of 8 up to 256, got {kind.head_size}"
    if torch.version.hip is None and torch.cuda.get_device_capability(kind.device) < (8, 0):
        return "flash attention needs an NVIDIA GPU of compute capability 8.0 or later"
    if has_flash_attn():
        return None
    if not has_torch_varlen():
        package = f"flash-attn {FLASH_ATTN_VERSIONS} (pip install 'instsel[flash]')"
        return f"neither {package} nor torch.nn.attention.varlen with grouped heads is there"
    if kind.has_sinks and "return_aux" not in torch_varlen_options():
        return "torch's varlen attention gives no log-sum-exp here, which sinks need (pip install 'instsel[flash]')"
    if kind.has_softcap:
        return "torch's varlen attention has no soft-cap (pip install 'instsel[flash]')"
    return None


def gather_plan(segments: TreeSegments, num_cached: int, device: torch.device) -> dict[str, Any]:
    """Key indices of all paths, one after the other, and the offsets of queries and of paths; made once a pack."""
    place = ("varlen", num_cached, device)
    plan: dict[str, Any] | None = segments.plans.get(place)
    if plan is None:
        nodes = [n for n in range(segments.num_nodes) if segments.query_offsets[n] < segments.query_offsets[n + 1]]
        paths = [segments.key_indices(node, num_cached) for node in nodes]
        lengths = torch.tensor([path.shape[0] for path in paths], dtype=torch.int32)
        queries = segments.query_offsets.diff()[nodes]
        zero = torch.zeros(1, dtype=torch.int32)
        plan = {
            "path": to_device(torch.cat(paths), device),
            "query_offsets": to_device(torch.cat([zero, queries.cumsum(0).int()]), device),
            "key_offsets": to_device(torch.cat([zero, lengths.cumsum(0).int()]), device),
            "longest_query": int(queries.max()),
            "longest_path": int(lengths.max()),
        }
        segments.plans[place] = plan
    return plan


def with_sinks(out: Tensor, logsumexp: Tensor, sinks: Tensor) -> Tensor:
    """Attention [T, heads, d] without sinks, whose scores have this log-sum-exp [heads, T], made attention with them.

    The sink leaves the scores `exp(lse) / (exp(lse) + exp(sink))` of the softmax.
    """
    share = torch.sigmoid(logsumexp - sinks[:, None]).T[:, :, None]
    return (out * share).to(out.dtype)


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: TreeSegments,
    options: AttentionOptions,
    *,
    find_again: bool = True,
) -> Tensor:
    scaling, window, softcap, sinks = options
    if query.shape[0] == 0:
        return torch.empty(query.shape, dtype=query.dtype, device=query.device)
    plan = gather_plan(segments, key.shape[0] - query.shape[0], query.device)
    paths = (key.index_select(0, plan["path"]), value.index_select(0, plan["path"]))
    offsets = (plan["query_offsets"], plan["key_offsets"], plan["longest_query"], plan["longest_path"])
    # A window of w keys includes the query's own; both interfaces count the keys to its left.
    left = -1 if window is None else window - 1
    if has_flash_attn():
        from flash_attn import flash_attn_varlen_func

        out = flash_attn_varlen_func(
            query.contiguous(),
            *paths,
            *offsets,
            softmax_scale=scaling,
            causal=True,
            window_size=(left, 0),
            softcap=softcap or 0.0,
            deterministic=True,
            return_attn_probs=sinks is not None,
        )
    else:
        from torch.nn.attention.varlen import varlen_attn

        asked: dict[str, Any] = {"scale": scaling, "window_size": (left, 0), "enable_gqa": True}
        if sinks is not None:
            from torch.nn.attention.varlen import AuxRequest

            asked["return_aux"] = AuxRequest(lse=True)
        # num_splits=1: a query's bits do not depend on what else is in the batch.
        out = varlen_attn(query.contiguous(), *paths, *offsets, **asked, num_splits=1)
    if sinks is not None:
        out = with_sinks(out[0], out[1], sinks)
    assert isinstance(out, Tensor)
    if find_again and triton_error(query.device) is None:
        from .triton_unseen_values import leave_out_unseen

        out = out.contiguous()
        leave_out_unseen(query, key, value, out, segments, options)
    return out
