"""What the operations along a tree have in common: which implementation runs, and checks of their arguments."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .backends import choose_backend
from .tree_nodes import TreeNodes
from .validation import check_tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
FAST = ("cpu", "triton")  # backends that have all of the operations, beside the reference
Implementation = Callable[..., tuple[Tensor, Tensor]]


def choose_implementation(
    backend: str, x: Tensor, name: str, float64: Sequence[str] = ("reference",)
) -> Implementation:
    """The function `name` that a backend has for a tensor's device and dtype; float64 is for those of `float64`."""
    chosen = choose_backend(backend, x.device)
    if x.dtype == torch.float64 and chosen not in float64:
        chosen = "reference"
    modules = {"reference": ".tree_recurrence_reference", "cpu": ".cpu_tree_recurrences", "triton": f".triton_{name}"}
    return _implementation(modules[chosen], name)


def fast_backend(backend: str, device: torch.device) -> str | None:
    """What runs the operations in one call each where attention is to be by `backend`; None where nothing does."""
    chosen = choose_backend("auto" if backend == "varlen" else backend, device)
    return chosen if chosen in FAST else None


@functools.cache
def _implementation(module: str, name: str) -> Implementation:
    run: Implementation = getattr(importlib.import_module(module, __package__), name)
    return run


def check_shape(name: str, value: Tensor, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
    """A tensor of exactly this shape, dtype and device."""
    check_tensor(name, value, len(shape), (dtype,), device)
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(value.shape)}")


def check_nodes(nodes: TreeNodes, num_tokens: int, keep: Sequence[int]) -> None:
    """Nodes of as many tokens as there are."""
    if not isinstance(nodes, TreeNodes):
        raise TypeError(f"nodes: expected TreeNodes, got {type(nodes).__name__}")
    if nodes.num_tokens != num_tokens:
        raise ValueError(f"nodes: expected nodes of {num_tokens} tokens in all, got {nodes.num_tokens}")
    nodes.check_kept(keep)


def check_initial(
    initial: Tensor | None, nodes: TreeNodes, shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> None:
    """One state of a shape for each that the nodes may go on from."""
    if initial is not None:
        check_shape("initial", initial, (nodes.num_initial, *shape), dtype, device)
    elif nodes.num_initial:
        raise ValueError(f"initial: expected {nodes.num_initial} states, got None")


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """That of states and sums: float32, or float64 of float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
