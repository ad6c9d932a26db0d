"""`tree_convolution` in Triton: all tokens of a pack at once, as their inputs are there from the beginning."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from .devices import to_device
from .tree_nodes import TreeNodes

BLOCK_TOKENS, BLOCK_CHANNELS, NUM_WARPS = 16, 128, 4


@triton.jit
def tree_convolution_kernel(
    x,
    weight,
    bias,
    initial,
    result,
    token_node,
    node_first,
    context,
    tokens,
    channels,
    x_stride,
    weight_stride,
    has_bias: tl.constexpr,
    has_initial: tl.constexpr,
    has_silu: tl.constexpr,
    exact: tl.constexpr,
    width: tl.constexpr,
    block_t: tl.constexpr,
    block_c: tl.constexpr,
):
    token = tl.program_id(0) * block_t + tl.arange(0, block_t)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    is_token, is_channel = token < tokens, channel < channels
    node = tl.load(token_node + token, mask=is_token, other=0)
    position = token - tl.load(node_first + node, mask=is_token, other=0)
    inside = is_token[:, None] & is_channel[None, :]
    sums = tl.zeros((block_t, block_c), exact)
    for tap in range(width):
        # Inputs before the node's own are where the plan says: rows of the pack, then those of earlier ones, or -1.
        is_own = position + tap >= width - 1
        entry = node.to(tl.int64) * (width - 1) + position + tap
        before = tl.load(context + entry, mask=is_token & (is_own == 0), other=-1)
        row = tl.where(is_own, token - (width - 1) + tap, before)
        from_pack = inside & ((row >= 0) & (row < tokens))[:, None]
        inputs = tl.load(x + row.to(tl.int64)[:, None] * x_stride + channel[None, :], mask=from_pack, other=0.0)
        inputs = inputs.to(exact)
        if has_initial:
            place = (row - tokens).to(tl.int64) * channels
            is_initial = inside & (row >= tokens)[:, None]
            inputs += tl.load(initial + place[:, None] + channel[None, :], mask=is_initial, other=0.0).to(exact)
        factors = tl.load(weight + channel.to(tl.int64) * weight_stride + tap, mask=is_channel, other=0.0).to(exact)
        sums += inputs * factors[None, :]
    if has_bias:
        sums += tl.load(bias + channel, mask=is_channel, other=0.0).to(exact)[None, :]
    if has_silu:
        sums = sums / (1.0 + tl.exp(-sums))
    to = token.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(result + to, sums.to(result.dtype.element_ty), mask=inside)


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
    x, weight = (y if y.stride(1) == 1 else y.contiguous() for y in (x, weight))
    tokens, channels = x.shape
    width = weight.shape[1]
    result = torch.empty(tokens, channels, dtype=x.dtype, device=x.device)
    begun = None if initial is None or initial.numel() == 0 else initial.contiguous()
    token_node, node_first, context = _plan(nodes, width, x.device)
    grid = triton.cdiv(tokens, BLOCK_TOKENS), triton.cdiv(channels, BLOCK_CHANNELS)
    if tokens and channels:
        tree_convolution_kernel[grid](
            x,
            weight,
            None if bias is None else bias.contiguous(),
            begun,
            result,
            token_node,
            node_first,
            context,
            tokens,
            channels,
            x.stride(0),
            weight.stride(0),
            has_bias=bias is not None,
            has_initial=begun is not None,
            has_silu=activation == "silu",
            exact=tl.float64 if x.dtype == torch.float64 else tl.float32,
            width=width,
            block_t=BLOCK_TOKENS,
            block_c=BLOCK_CHANNELS,
            num_warps=NUM_WARPS,
        )
    return result, _last_inputs(x, nodes, width, begun, keep)


def _plan(nodes: TreeNodes, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Each token's node, each node's first token, and [nodes, width - 1] the rows of the inputs before it."""
    plan = ("convolution", width, device)
    if plan not in nodes.plans:
        before, _ = _inputs(nodes, width)
        arrays = (np.repeat(np.arange(len(nodes)), np.diff(nodes.offsets)), nodes.offsets[:-1], before)
        nodes.plans[plan] = tuple(to_device(torch.from_numpy(array.astype(np.int32)), device) for array in arrays)
    token_node, node_first, context = nodes.plans[plan]
    return token_node, node_first, context


def _inputs(nodes: TreeNodes, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the last `width - 1` inputs before each node and at its end: -1 where the path has none, from
    `num_tokens` on the rows of the initial inputs."""
    plan = ("inputs", width)
    if plan not in nodes.plans:
        count, tokens = width - 1, nodes.num_tokens
        before = np.full((len(nodes), count), -1)
        behind = before.copy()
        for node, parent in enumerate(nodes.parents.tolist()):
            if parent >= 0:
                before[node] = behind[parent]
            elif parent <= -2:
                before[node] = tokens + count * (-2 - parent) + np.arange(count)
            own = np.arange(max(nodes.offsets[node], nodes.offsets[node + 1] - count), nodes.offsets[node + 1])
            behind[node] = np.concatenate([before[node], own])[len(own) :]
        nodes.plans[plan] = before, behind
    found: tuple[np.ndarray, np.ndarray] = nodes.plans[plan]
    return found


def _last_inputs(x: Tensor, nodes: TreeNodes, width: int, initial: Tensor | None, keep: Sequence[int]) -> Tensor:
    kept = x.new_zeros(len(keep), width - 1, x.shape[1])
    if not kept.numel():
        return kept
    rows = torch.from_numpy(_inputs(nodes, width)[1][list(keep)].reshape(-1))
    flat, tokens = kept.view(-1, x.shape[1]), nodes.num_tokens
    for source, first, stop in ((x, 0, tokens), (None if initial is None else initial.flatten(0, 1), tokens, None)):
        to = torch.nonzero((rows >= first) & (rows < (stop if stop is not None else rows.max() + 1))).flatten()
        if source is not None and len(to):
            flat[to_device(to, x.device)] = source[to_device(rows[to] - first, x.device)]
    return kept
