"""The implementations of `tree_attention` by name, and what a call is to them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

IMPLEMENTATIONS = {
    "reference": ".tree_attention_reference",
    "cpu": ".cpu_tree_attention",
    "triton": ".triton_tree_attention",
    "varlen": ".varlen_attention",
}


@functools.cache
def implementation(backend: str) -> Callable[..., Tensor]:
    """The function of a backend, whose module is imported when it is first asked for."""
    run: Callable[..., Tensor] = importlib.import_module(IMPLEMENTATIONS[backend], __package__).tree_attention
    return run


class AttentionOptions(NamedTuple):
    """What is asked of attention beside queries, keys and values, as `tree_attention` describes it.

    sinks  contiguous float32 [heads]
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """What decides whether a backend can run a call of `tree_attention`, and by which code."""

    device: torch.device
    dtype: torch.dtype
    head_size: int
    group: int  # query heads a key head
    has_window: bool
    has_softcap: bool
    has_sinks: bool
