"""`row_logprob` in Triton: one program reads a row once; a second launch picks the targets."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .logprobs import HeadTransform, Logprobs, Pairs
from .triton_pairs import BLOCK_PAIRS, join_states, pairs_from_logits_kernel
from .triton_row_states import empty_states, row_states


def needed_rows(rows: Tensor, mask: Tensor | None, num_rows: int) -> Tensor:
    """int32 [rows]: how many unmasked pairs refer to each row (a sum of integers, so its order does not matter)."""
    valid = (rows >= 0) & (rows < num_rows)
    counted = valid if mask is None else valid & mask
    needed = torch.zeros(max(num_rows, 1), dtype=torch.int32, device=rows.device)
    return needed.index_add_(0, rows.clamp(0, max(num_rows - 1, 0)), counted.int())


def row_logprob(logits: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool) -> Logprobs:
    num_rows, num_columns = logits.shape
    (rows, targets, mask), (bias, scale, softcap) = pairs, head
    maxima, sums, argmaxima = empty_states((1, num_rows), argmax, logits.device)
    out = (maxima[0], sums[0], None if argmaxima is None else argmaxima[0])
    row_states(logits, needed_rows(rows, mask, num_rows), head, 0, out)
    offsets, log_sums, logsumexps, best = join_states(maxima, sums, argmaxima)
    logprobs = torch.empty(rows.shape[0], dtype=torch.float32, device=logits.device)
    if rows.shape[0]:
        pairs_from_logits_kernel[(triton.cdiv(rows.shape[0], BLOCK_PAIRS),)](
            logits,
            logits if bias is None else bias,
            rows,
            targets,
            rows if mask is None else mask.view(torch.uint8),
            offsets,
            log_sums,
            logprobs,
            logits.stride(0),
            num_rows,
            num_columns,
            rows.shape[0],
            scale,
            softcap or 1.0,
            has_bias=bias is not None,
            has_mask=mask is not None,
            has_softcap=softcap is not None,
            block_pairs=BLOCK_PAIRS,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return Logprobs(logprobs, logsumexps, best)
