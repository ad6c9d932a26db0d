"""`linear_logprob` in Triton: log-sum-exps by one fused kernel (or product and pass), targets as indexed dots."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .logprobs import HeadTransform, Logprobs, Pairs
from .triton_configurations import choose_fused, linear_configuration, split_entries
from .triton_linear_states import linear_states
from .triton_pairs import join_states, pairs_from_hidden_kernel
from .triton_row_states import empty_states, row_states

# Rows of one launch. Programs that run together have all rows and a few tiles of the vocabulary: at a hidden size of
# 4,096 the rows (16 MiB in bfloat16) stay in a level-2 cache of 50 MB, and each launch reads the weights once. With
# 16,384 rows every tile of the vocabulary would read them again from memory.
PASS_ROWS = 2048
# The unfused path's logits: rows times vocabulary entries of one product, 64 MB in float32.
CHUNK_ENTRIES = 8192
CHUNK_ROWS = 2048

States = tuple[Tensor, Tensor, Tensor | None]


def _fused_states(hidden: Tensor, weight: Tensor, head: HeadTransform, argmax: bool) -> States:
    split = split_entries(hidden.device)
    shape = triton.cdiv(weight.shape[0], split), hidden.shape[0]  # each of which a program writes
    maxima, sums = (torch.empty(shape, dtype=torch.float32, device=hidden.device) for _ in range(2))
    best = torch.empty(shape, dtype=torch.int64, device=hidden.device) if argmax else None
    configuration = linear_configuration(
        hidden.device, hidden.dtype, argmax=argmax, transformed=not head.is_identity, size=hidden.shape[1]
    )
    for row in range(0, hidden.shape[0], PASS_ROWS):
        part = slice(row, row + PASS_ROWS)
        states = maxima[:, part], sums[:, part], None if best is None else best[:, part]
        linear_states(hidden[part], weight, head, split, configuration, states)
    return maxima, sums, best


def float32_product(left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """`left @ right.T` with float32 results: 16-bit logits would be off by up to 0.06 nats."""
    if left.dtype == torch.float32 or left.device.type != "cuda":
        return torch.mm(left.float(), right.float().T, out=out)
    return torch.mm(left, right.T, out_dtype=torch.float32, out=out)


def _unfused_states(hidden: Tensor, weight: Tensor, head: HeadTransform, argmax: bool) -> States:
    vocabulary, num_rows = weight.shape[0], hidden.shape[0]
    states = empty_states((triton.cdiv(vocabulary, CHUNK_ENTRIES), num_rows), argmax, hidden.device)
    maxima, sums, argmaxima = states
    buffer = torch.empty(CHUNK_ROWS * CHUNK_ENTRIES, dtype=torch.float32, device=hidden.device)
    for part, first in enumerate(range(0, vocabulary, CHUNK_ENTRIES)):
        chunk = weight[first : first + CHUNK_ENTRIES]
        for row in range(0, num_rows, CHUNK_ROWS):
            rows = hidden[row : row + CHUNK_ROWS]
            stop = row + rows.shape[0]
            out = buffer[: rows.shape[0] * chunk.shape[0]].view(rows.shape[0], chunk.shape[0])
            logits = float32_product(rows, chunk, out)
            best = None if argmaxima is None else argmaxima[part, row:stop]
            row_states(logits, None, head, first, (maxima[part, row:stop], sums[part, row:stop], best))
    return states


def linear_logprob(
    hidden: Tensor, weight: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool, fused: bool | str
) -> Logprobs:
    (rows, targets, mask), (bias, scale, softcap) = pairs, head
    use_fused = choose_fused(hidden.device, hidden.dtype) if fused == "auto" else bool(fused)
    row_states_of = _fused_states if use_fused else _unfused_states
    states = row_states_of(hidden, weight, head, argmax)
    offsets, log_sums, logsumexps, best = join_states(*states)
    logprobs = torch.full(rows.shape, float("nan"), dtype=torch.float32, device=hidden.device)
    # Without rows no pair is in range, and there is none that the kernel could read in its place.
    if rows.shape[0] and hidden.shape[0]:
        pairs_from_hidden_kernel[(rows.shape[0],)](
            hidden,
            weight,
            weight if bias is None else bias,
            rows,
            targets,
            rows if mask is None else mask.view(torch.uint8),
            offsets,
            log_sums,
            logprobs,
            hidden.stride(0),
            weight.stride(0),
            hidden.shape[0],
            weight.shape[0],
            hidden.shape[1],
            scale,
            softcap or 1.0,
            has_bias=bias is not None,
            has_mask=mask is not None,
            has_softcap=softcap is not None,
            block_h=min(1024, triton.next_power_of_2(hidden.shape[1])),
            num_warps=4,
            enable_fp_fusion=True,
        )
    return Logprobs(logprobs, logsumexps, best)
