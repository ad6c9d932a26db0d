"""Whether a function that a mixer calls computes what an operation along a tree does: tried on random numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instsel.kernels import TreeNodes, tree_convolution, tree_delta_rule, tree_scan

# Largest relative difference in float32 that is rounding; another formula differs by far more.
_TOLERANCE = 1e-4
_TOKENS = 7


def _random(device: torch.device, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Numbers that are the same in every process, and leave torch's own as they are."""
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device) for shape in shapes]


def _agree(tried: Callable[[], tuple[Any, Tensor]]) -> bool:
    try:
        got, want = tried()
    except (TypeError, ValueError, RuntimeError, IndexError):  # other arguments or shapes: another function
        return False
    got = got[0] if isinstance(got, tuple) else got
    return got.shape == want.shape and bool((got - want).norm() <= _TOLERANCE * want.norm())


def _one_node() -> TreeNodes:
    return TreeNodes.from_lists([0, _TOKENS], [-1])


@functools.lru_cache(maxsize=64)
def is_convolution(own: Callable[..., object], activation: str | None, backend: str, device: torch.device) -> bool:
    """Of inputs [1, C, T] as `tree_convolution`."""

    def tried() -> tuple[Any, Tensor]:
        x, weight, bias = _random(device, (_TOKENS, 5), (5, 4), (5,))
        given = own(x.T[None], weight, bias, activation=activation)
        name = None if activation is None else "silu"
        return given, tree_convolution(x, weight, _one_node(), bias=bias, activation=name, backend=backend)[0].T[None]

    return _agree(tried)


@functools.lru_cache(maxsize=64)
def is_delta_rule(
    own: Callable[..., object], per_row: bool, normalize: bool, backend: str, device: torch.device
) -> bool:
    """Of queries [1, T, heads, d_k] as `tree_delta_rule`, with one decay a head or one a row of the state."""

    def tried() -> tuple[Any, Tensor]:
        heads = (_TOKENS, 2, 8)
        decays = heads if per_row else heads[:2]
        query, key, value, decay, beta = _random(device, heads, heads, (_TOKENS, 2, 6), decays, heads[:2])
        parts = query * 0.3, key * 0.3, value, -decay.abs(), beta.sigmoid()
        q, k, v, g, b = (x[None] for x in parts)
        given = own(q, k, v, g=g, beta=b, use_qk_l2norm_in_kernel=normalize)
        return given, tree_delta_rule(*parts, _one_node(), normalize=normalize, backend=backend)[0][None]

    return _agree(tried)


@functools.lru_cache(maxsize=64)
def is_scan(own: Callable[..., object], backend: str, device: torch.device) -> bool:
    """Mamba-2's of inputs [1, T, heads, d] as `tree_scan`."""

    def tried() -> tuple[Any, Tensor]:
        shapes = (_TOKENS, 4, 6), (_TOKENS, 4), (4,), (_TOKENS, 2, 8), (_TOKENS, 2, 8), (4,)
        x, step, rate, write, read, skip = _random(device, *shapes)
        step, rate = step.abs(), -rate.abs()
        given = own(x[None], step[None], rate, write[None], read[None], chunk_size=4, D=skip)
        return given, tree_scan(x, step, rate, write, read, _one_node(), skip=skip, backend=backend)[0][None]

    return _agree(tried)


@functools.lru_cache(maxsize=64)
def is_channel_scan(own: Callable[..., object], backend: str, device: torch.device) -> bool:
    """Mamba's of inputs [1, C, T] as `tree_scan` over heads of one channel."""

    def tried() -> tuple[Any, Tensor]:
        x, step, rate, write, read, skip = _random(
            device, (_TOKENS, 5, 1), (_TOKENS, 5), (5, 8), (_TOKENS, 1, 8), (_TOKENS, 1, 8), (5,)
        )
        step, rate = step.abs(), -rate.abs()
        given = own(x[..., 0].T[None], step.T[None], rate, write[:, 0].T[None], read[:, 0].T[None], skip)
        out, _ = tree_scan(x, step, rate, write, read, _one_node(), skip=skip, backend=backend)
        return given, out[..., 0].T[None]

    return _agree(tried)
