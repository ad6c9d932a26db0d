"""What a feed-forward network computes, found with random numbers in place of what its products give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from instsel.kernels.gpu_layer import GpuFeedForward
from instsel.kernels.layer_products import FeedForward
from instsel.layers.fused_modules import (
    ACTIVATION_FUNCTIONS,
    far_random,
    holds_others,
    is_usable,
    known_activations,
    random_like,
)
from instsel.layers.layer_flow import HIDDEN_ROWS, ChildCall
from instsel.layers.stand_ins import StandIn, replaced
from instsel.layers.weight_columns import Columns, gpu_product

_TOKENS = 3


class FeedForwardParts(NamedTuple):
    """`down(activation(gate) * up)` or, without `up`, `down(activation(gate))`, by the names of its parts."""

    gate: Columns
    up: Columns | None
    activation: str  # one that the kernels know, or the name of the attribute that holds the model's own
    is_known: bool
    down: Columns

    def of(self, module: nn.Module) -> FeedForward:
        """With the weights of a module."""
        up = None if self.up is None else self.up.of(module)
        activation = self.activation if self.is_known else getattr(module, self.activation)
        return FeedForward(self.gate.of(module), up, activation, self.down.of(module))

    def on_gpu(self, module: nn.Module) -> GpuFeedForward:
        """With the weights of a module, on a GPU."""
        names = list(dict.fromkeys(part.product for part in (self.gate, self.up) if part is not None))
        activation = self.activation if self.is_known else getattr(module, self.activation)
        return GpuFeedForward(
            tuple(gpu_product(module, name) for name in names),
            self.gate.on_gpu(names),
            None if self.up is None else self.up.on_gpu(names),
            activation,
            gpu_product(module, self.down.product),
        )


def find_feed_forward(module: object, call: ChildCall, backend: str) -> FeedForwardParts | None:
    """None for a module that computes something else, or whose weights the kernels do not take."""
    try:
        return _find(module, call, backend)
    except Exception:  # whatever a module of another kind raises
        return None


def _find(module: Any, call: ChildCall, backend: str) -> FeedForwardParts | None:
    products = {name: part for name, part in module.named_modules() if type(part) is nn.Linear}
    others = [part for part in module.modules() if type(part) is not nn.Linear]
    if len(products) not in (2, 3) or any(holds_others(part) for part in others):
        return None
    if not all(is_usable(part.weight, backend) for part in products.values()) or set(call.named.values()) - {
        HIDDEN_ROWS
    }:
        return None
    like = torch.empty(0, dtype=torch.float32)
    hidden = random_like(_TOKENS, next(iter(products.values())).in_features, like=like)
    made: dict[str, Tensor] = {}
    last: dict[str, Tensor] = {}  # what the product was given that was not given the module's rows

    def stand_in(place: int, name: str) -> StandIn:
        def answer(x: Tensor) -> Tensor:
            if not torch.equal(x.reshape(_TOKENS, -1), hidden):
                last[name] = x.reshape(_TOKENS, -1).clone()
            outputs = products[name].out_features
            made[name] = far_random(place + 1, _TOKENS, outputs)[place]
            return made[name].reshape(*x.shape[:-1], outputs).clone()

        return StandIn(answer)

    rows = hidden[None] if call.dimensions == 3 else hidden
    given = [rows if value is HIDDEN_ROWS else value for value in call.given]
    named = {name: rows for name in call.named}
    with replaced(module, {name: stand_in(place, name) for place, name in enumerate(products)}):
        out = type(module).forward(module, *given, **named)
    ((down, inner),) = last.items()
    if set(made) != set(products) or not torch.equal(out.reshape(_TOKENS, -1), made[down]):
        return None
    first = [name for name in products if name != down]
    for gate, up in _inputs(first, {name: made[name].shape[1] for name in first}):
        values = [made[c.product][:, c.places] for c in (gate, up) if c is not None]
        if values[0].shape != inner.shape:
            continue
        for name, function, is_known in _activations(module, known_activations(backend) if up is not None else ()):
            wanted = function(values[0].clone())
            wanted = wanted if up is None else wanted * values[1]
            if torch.allclose(inner, wanted, rtol=1e-5, atol=1e-6):
                return FeedForwardParts(gate, up, name, is_known, Columns(down, 0, made[down].shape[1]))
    return None


def _inputs(first: list[str], sizes: dict[str, int]) -> Iterator[tuple[Columns, Columns | None]]:
    """What the gate may be, and what it may be multiplied by."""
    if len(first) == 2:
        one, other = (Columns(name, 0, sizes[name]) for name in first)
        yield one, other
        yield other, one
    else:
        (name,) = first
        half = sizes[name] // 2
        yield Columns(name, 0, sizes[name]), None
        yield Columns(name, 0, half), Columns(name, half, half)
        yield Columns(name, half, half), Columns(name, 0, half)


def _activations(module: nn.Module, known: tuple[str, ...]) -> Iterator[tuple[str, Callable[[Tensor], Tensor], bool]]:
    """Names and functions: those that the kernels know of a gate, and what the module holds."""
    yield from ((name, ACTIVATION_FUNCTIONS[name], True) for name in known)
    for name, part in (*module.named_children(), *vars(module).items()):
        if not name.startswith("_") and name != "forward" and not isinstance(part, nn.Linear) and callable(part):
            try:
                made = cast(Any, part)(torch.zeros(2, 3, dtype=torch.float32))
            except Exception:  # something else that can be called
                continue
            if isinstance(made, Tensor) and made.shape == (2, 3):
                yield name, cast(Any, part), False
