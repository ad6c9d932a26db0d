"""How a layer joins its children: each is given a sum of what was there before, and so is the next layer.

Found by running the layer's own forward with random numbers in place of what its children give: norms before, after and
between, attention beside the feed-forward network or before it, and factors of any of them are cases of one thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn

from instsel.layers.layer_records import LayerRecord, named_parts
from instsel.layers.stand_ins import StandIn, replaced

Factors = tuple[float, ...]  # of the hidden states that a layer is given, and of its children's results in their order

# Relative, of sums in float64.
_EXACT = 1e-9
_DIGITS = 12  # of factors, so that the same one is the same number
_PASSED_BY = (nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class ChildCall:
    """A call of a child, by its name: the sum that it was given, and what else."""

    name: str
    source: Factors
    dimensions: int  # of the tensor that it was given, [1, T, H] or [T, H]
    given: tuple[object, ...]  # with `HIDDEN_ROWS` where that tensor stood
    named: Mapping[str, object]


@dataclass(frozen=True)
class Flow:
    """The calls of a layer's children in their order, and the sum that the layer gives."""

    calls: tuple[ChildCall, ...]
    result: Factors


class _HiddenRows:
    """Marks the place of the rows among a call's arguments."""


HIDDEN_ROWS = _HiddenRows()


def find_flow(layer: nn.Module, record: LayerRecord) -> Flow | None:
    """None for a layer that does something else with what its children give than to sum it up."""
    if any(parameter is not None for parameter in layer._parameters.values()):
        return None  # a factor that is trained
    generator = torch.Generator().manual_seed(0)
    vectors: list[Tensor] = []
    calls: list[ChildCall] = []

    def draw(shape: torch.Size) -> Tensor:
        vectors.append(torch.randn(shape, generator=generator, dtype=torch.float64))
        return vectors[-1]

    def answer(name: str, given: tuple[object, ...], named: dict[str, object]) -> object:
        rows = next(value for value in (*given, *named.values()) if _is_rows(value))
        marked = tuple(HIDDEN_ROWS if value is rows else value for value in given)
        others = {key: HIDDEN_ROWS if value is rows else value for key, value in named.items()}
        calls.append(ChildCall(name, _factors(rows, vectors), rows.ndim, marked, others))
        out, length = draw(rows.shape), record.lengths.get(name)
        return out if length is None else (out, *[None] * (length - 1))

    def stand_in(name: str) -> StandIn:
        made = StandIn(lambda *given, **named: answer(name, given, named))
        made.weight = x.new_empty(0)  # whose dtype a layer may ask for
        return made

    x = draw(torch.Size((1, *record.rows.shape)))
    try:
        names = [name for name, child in named_parts(layer) if not isinstance(child, _PASSED_BY)]
        with replaced(layer, {name: stand_in(name) for name in names}):
            own = type(layer).forward(layer, **{**record.arguments, record.names[0]: x.clone()})
        return Flow(tuple(calls), _factors(own if record.length is None else own[0], vectors))
    except Exception:  # whatever a layer of another kind raises
        return None


def _is_rows(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.dtype == torch.float64


def _factors(total: Tensor, vectors: list[Tensor]) -> Factors:
    """Of the vectors, in the sum that `total` is; ValueError where it is none."""
    matrix = torch.stack([vector.flatten() for vector in vectors], dim=1)
    wanted = total.flatten()
    solved = cast(Tensor, torch.linalg.lstsq(matrix, wanted[:, None]).solution)[:, 0]
    if (matrix @ solved - wanted).norm() > _EXACT * wanted.norm():
        raise ValueError("not a sum of what was there before")
    return tuple(round(factor, _DIGITS) for factor in solved.tolist())
