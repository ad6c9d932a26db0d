"""Pieces of a recurrence in Triton: a state in and out, and what the decays within a chunk of tokens add up to."""
# mypy: disallow-untyped-defs=False
# (Triton kernels take pointers, for which there is no annotation.)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_state(states, initial, source, cells, inside, size):
    """Some cells of a state: one that a node of this pack left, an initial one (-2 - c), or zeros (-1)."""
    state = tl.zeros(cells.shape, tl.float32)
    if source >= 0:
        state = tl.load(states + source * size + cells, mask=inside, other=0.0)
    if source <= -2:
        state = tl.load(initial + (-2 - source) * size + cells, mask=inside, other=0.0)
    return state


@triton.jit
def store_state(states, place, state, cells, inside, size):
    if place >= 0:
        tl.store(states + place * size + cells, state, mask=inside)


@triton.jit
def row_of(tensor, row, chunk: tl.constexpr):
    """A row of a tensor of `chunk` rows."""
    return tl.sum(tl.where((tl.arange(0, chunk) == row)[:, None], tensor, 0.0), axis=0)


@triton.jit
def sums_between(logs, chunk: tl.constexpr):
    """[i, j]: the decays' logarithms of the tokens behind j up to i, added up by themselves: differences of sums would
    cancel, and of infinities be no number."""
    tokens = tl.arange(0, chunk)
    sums = tl.zeros((chunk, chunk), tl.float32)
    for token in range(chunk):
        one = tl.sum(tl.where(tokens == token, logs, 0.0), axis=0)
        sums += tl.where((tokens < token)[None, :] & (tokens >= token)[:, None], one, 0.0)
    return sums


@triton.jit
def sums_behind(logs, chunk: tl.constexpr):
    """[j, row]: the same of the tokens behind j up to the chunk's end, for each row of the state."""
    tokens = tl.arange(0, chunk)
    sums = tl.zeros(logs.shape, tl.float32)
    for token in range(chunk):
        sums += tl.where((tokens < token)[:, None], row_of(logs, token, chunk)[None, :], 0.0)
    return sums


@triton.jit
def add_decayed_products(of_queries, of_keys, queries, keys, logs, is_delta: tl.constexpr, chunk: tl.constexpr):
    """[i, j]: q_i and k_i times k_j decayed from token j to i, where each row of the state has a decay of its own."""
    tokens = tl.arange(0, chunk)
    for token in range(chunk):
        decays = tl.exp(tl.cumsum(tl.where((tokens > token)[:, None], logs, 0.0), axis=0))
        seen = decays * row_of(keys, token, chunk)[None, :]
        is_column = (tokens == token)[None, :]
        of_queries += tl.where(is_column, tl.sum(queries * seen, axis=1)[:, None], 0.0)
        if is_delta:
            of_keys += tl.where(is_column, tl.sum(keys * seen, axis=1)[:, None], 0.0)
    return of_queries, of_keys
