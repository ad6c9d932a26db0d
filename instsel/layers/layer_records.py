"""What the layers of a model are given and give while a small pack runs through its own modules."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from instsel.kernels.attention_kinds import AttentionOptions
from instsel.layers.attention import PackState, current_pack


@dataclass(slots=True)
class LayerRecord:
    """One call of a layer."""

    names: list[str]  # of the arguments of its forward, of which the first is the hidden states
    arguments: dict[str, object]
    given: Tensor  # hidden states, as it was given them: [1, T, H]
    rows: Tensor  # a copy [T, H]
    state: PackState
    gave: Tensor | None = None  # the next ones, as it gave them
    result: Tensor | None = None  # a copy [T, H]
    length: int | None = None  # of the tuple that it gives, whose others are None
    calls: list[AttentionOptions] = field(default_factory=list)  # what it asked of attention
    lengths: dict[str, int] = field(default_factory=dict)  # of the tuples that some of its children give

    @property
    def others(self) -> dict[str, object]:
        """Its arguments but for the hidden states."""
        return {name: value for name, value in self.arguments.items() if name != self.names[0]}


def named_parts(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A layer's children, of lists and dictionaries of modules the members, which alone are called."""
    for name, child in layer.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from ((f"{name}.{inner}", part) for inner, part in named_parts(child))
        else:
            yield name, child


def record_layers(
    layers: Sequence[nn.Module], run: Callable[[], object], others: Sequence[nn.Module] = ()
) -> tuple[dict[nn.Module, LayerRecord], list[Tensor]]:
    """What each of the layers did when `run` had the model compute a pack, so far as it can be told; and the tensors
    that `others` were given."""
    given_to_others: list[Tensor] = []
    records: dict[nn.Module, LayerRecord] = {}

    def layer_forward(layer: nn.Module, *given: object, **more: object) -> object:
        state, forward = current_pack(), type(layer).forward
        names = list(inspect.signature(forward).parameters)[1:]
        arguments = dict(zip(names, given, strict=False)) | more
        hidden = arguments.get(names[0]) if names else None
        before = 0 if state is None else len(state.calls)
        if state is not None and isinstance(hidden, Tensor) and hidden.ndim == 3 and len(hidden) == 1:
            records[layer] = LayerRecord(names, arguments, hidden, hidden[0].clone(), state)
        out = forward(layer, *given, **more)
        if (record := records.get(layer)) is not None and state is not None:
            record.calls = state.calls[before:]
            if isinstance(out, tuple) and all(other is None for other in out[1:]):
                record.length = len(out)
            next_hidden = out if record.length is None else out[0]
            if isinstance(next_hidden, Tensor) and next_hidden.ndim == 3 and next_hidden[0].shape == record.rows.shape:
                record.gave, record.result = next_hidden, next_hidden[0].clone()
        return out

    def child_forward(
        layer: nn.Module, name: str, own: Callable[..., object], *given: object, **more: object
    ) -> object:
        out = own(*given, **more)
        if isinstance(out, tuple) and (record := records.get(layer)) is not None:
            record.lengths[name] = len(out)
        return out

    def other_forward(own: Callable[..., object], *given: Tensor, **more: object) -> object:
        given_to_others.extend(given)
        return own(*given, **more)

    forwards: list[tuple[nn.Module, Callable[..., object]]] = []
    for layer in layers:
        forwards.append((layer, partial(layer_forward, layer)))
        for name, child in named_parts(layer):
            forwards.append((child, partial(child_forward, layer, name, cast(Any, child).forward)))
    forwards += [(other, partial(other_forward, cast(Any, other).forward)) for other in others]
    with _other_forwards(forwards):
        run()
    return {layer: record for layer, record in records.items() if record.result is not None}, given_to_others


@contextmanager
def _other_forwards(forwards: Sequence[tuple[nn.Module, Callable[..., object]]]) -> Iterator[None]:
    before = [(vars(module), vars(module).get("forward")) for module, _ in forwards]
    for module, forward in forwards:
        vars(module)["forward"] = forward
    try:
        yield
    finally:
        for state, own in before:
            state.pop("forward", None)
            if own is not None:
                state["forward"] = own
