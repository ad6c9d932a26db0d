"""`linear_logprob` on the CPU: tiles of logits a matrix product at a time, never all at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .float_products import by_onednn, float_product
from .logprobs import HeadTransform, Logprobs, Pairs
from .native_arrays import Machine, RowStates, array_of, chosen_instruction_set, head_arguments, pair_arguments

# Every product has exactly this many rows (the last tile is padded): BLAS libraries take other code for other heights,
# whose sums round differently, and a row's value must not depend on how many rows came with it.
TILE_ROWS = 128
# MKL on AMD multiplies by fewer than twelve columns with code in which a row's sums depend on its place in the tile.
NARROWEST_CHUNK = 16
# A tile of float32 logits and a chunk of float32 weights, 4 MB each at most, stay in the second- or third-level cache.
CHUNK_BYTES = 4 << 20


def chunk_columns(hidden_size: int) -> int:
    """Vocabulary entries in a chunk; from the sizes of the head alone, never from the number of rows."""
    return max(64, min(CHUNK_BYTES // (4 * TILE_ROWS), CHUNK_BYTES // (4 * hidden_size)) // 64 * 64)


def row_tiles(hidden: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(first, last, float32 [TILE_ROWS, H]) for consecutive rows; the last tile is filled up with zeros."""
    buffer = torch.zeros(TILE_ROWS, hidden.shape[1], dtype=torch.float32)
    for first in range(0, hidden.shape[0], TILE_ROWS):
        last = min(first + TILE_ROWS, hidden.shape[0])
        buffer[: last - first] = hidden[first:last]
        buffer[last - first :] = 0.0
        yield first, last, buffer


def accumulate_by_products(hidden: Tensor, weight: Tensor, head: HeadTransform, states: RowStates) -> None:
    """Log-sum-exp of every row with torch's float32 product, in which bfloat16 and float16 fit exactly."""
    from . import _native

    machine = Machine.now()
    columns = chunk_columns(hidden.shape[1])
    logits = torch.empty(TILE_ROWS * columns, dtype=torch.float32)
    upcast = torch.empty(columns, weight.shape[1], dtype=torch.float32) if weight.dtype != torch.float32 else None
    biases, scale, softcap = head_arguments(head)
    onednn = float_product() == "onednn"
    for start in range(0, weight.shape[0], columns):
        stop = min(start + columns, weight.shape[0])
        chunk = weight[start:stop]
        if upcast is not None:
            chunk = upcast[: stop - start].copy_(chunk)
        count = stop - start
        if count < NARROWEST_CHUNK:
            chunk = torch.cat([chunk, chunk.new_zeros(NARROWEST_CHUNK - count, chunk.shape[1])])
        product = logits[: TILE_ROWS * len(chunk)].view(TILE_ROWS, len(chunk))
        for first, last, tile in row_tiles(hidden):
            if onednn:
                product = by_onednn(tile, chunk)
            else:
                torch.mm(tile, chunk.T, out=product)
            out = product[:, :count].contiguous()
            _native.accumulate(
                out[: last - first].numpy(),
                start,
                None if biases is None else biases[start:stop],
                scale,
                softcap,
                states.max[first:last],
                states.sum[first:last],
                None if states.argmax is None else states.argmax[first:last],
                *machine,
            )


def accumulate_in_cache(hidden: Tensor, weight: Tensor, head: HeadTransform, states: RowStates) -> None:
    """Log-sum-exp of every row by our own products, the logits never leaving the cache.

    Those of bfloat16 are multiplied as such where the processor can, all others as float32, in which they fit exactly.
    """
    from . import _native

    _native.linear_logsumexp(
        array_of(hidden),
        array_of(weight),
        *head_arguments(head),
        states.max,
        states.sum,
        states.argmax,
        *Machine.now(),
    )


def choose_fused(fused: bool | str) -> bool:
    """Whether logits stay in the cache: with vectors of at least 256 bits, unless told otherwise.

    torch's float32 products in tiles took 1.37 times as long on an Intel Xeon by AVX-512, 1.1 times by AVX2; with
    vectors of 128 bits, as on Arm, nothing was measured.
    """
    return chosen_instruction_set() != "plain" if fused == "auto" else bool(fused)


def linear_logprob(
    hidden: Tensor, weight: Tensor, pairs: Pairs, head: HeadTransform, argmax: bool, fused: bool | str
) -> Logprobs:
    from . import _native

    states = RowStates.empty(hidden.shape[0], argmax)
    accumulate = accumulate_in_cache if choose_fused(fused) else accumulate_by_products
    accumulate(hidden, weight, head, states)
    logprob = torch.empty(len(pairs.rows), dtype=torch.float32)
    logsumexp = torch.empty(hidden.shape[0], dtype=torch.float32)
    _native.pair_logprobs(
        array_of(hidden),
        array_of(weight),
        *pair_arguments(pairs),
        *head_arguments(head),
        states.max,
        states.sum,
        states.argmax,
        logprob.numpy(),
        logsumexp.numpy(),
        *Machine.now(),
    )
    return Logprobs(logprob, logsumexp, None if states.argmax is None else torch.from_numpy(states.argmax))
