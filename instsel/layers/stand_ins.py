"""Parts of a module replaced for one run by something whose effect on the result is plain to see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn


class StandIn(nn.Module):
    """Gives what `answer` gives."""

    def __init__(self, answer: Callable[..., object]) -> None:
        super().__init__()
        self._answer = answer

    def forward(self, *given: object, **more: object) -> object:
        return self._answer(*given, **more)


@contextmanager
def replaced(module: nn.Module, parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within this block descendants of a module, by their names, are others."""
    before: list[tuple[dict[str, nn.Module | None], str, nn.Module | None]] = []
    for name, part in parts.items():
        parent, _, last = name.rpartition(".")
        children = module.get_submodule(parent)._modules
        before.append((children, last, children[last]))
        children[last] = part
    try:
        yield
    finally:
        for children, last, own in before:
            children[last] = own
