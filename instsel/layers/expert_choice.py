"""Experts that are chosen whatever the rounding, so that two ways to run a mixture can be compared in half precision.

Where a token's scores for two experts are a rounding apart, one way chooses the one and another the other, and the
token's hidden states then differ by as much as a wrong mask would move them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

# What a mixture's experts of transformers are given: rows, the experts [T, k] that each has chosen, and their weights.
_CHOSEN = ("top_k_index", "router_indices")


@contextmanager
def fixed_choice(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within this block each row goes through a mixture's first experts, all with one weight; not in float32, whose
    rounding hardly ever decides."""
    before: list[tuple[dict[str, Any], Any]] = []
    try:
        for module in modules:
            if are_experts(module) and any(p.itemsize < 4 for p in module.parameters()):
                state = vars(module)
                before.append((state, state.get("forward")))
                state["forward"] = _of_the_first(cast(Any, module).forward)
        yield
    finally:
        for state, own in before:
            state.pop("forward")
            if own is not None:
                state["forward"] = own


def are_experts(module: nn.Module) -> bool:
    """Whether a module's forward is given rows and what they have chosen."""
    try:
        names = list(inspect.signature(cast(Any, type(module)).forward).parameters)
    except (TypeError, ValueError):  # a forward that has no signature
        return False
    return len(names) > 3 and names[2] in _CHOSEN


def _of_the_first(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(x: Tensor, *given: Any, **named: Any) -> Any:
        if len(given) != 2 or named:
            return own(x, *given, **named)
        chosen, weights = given
        first = torch.arange(chosen.shape[-1], dtype=chosen.dtype, device=chosen.device).expand_as(chosen)
        return own(x, first, torch.full_like(weights, 1 / weights.shape[-1]))

    return forward
