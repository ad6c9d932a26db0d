"""Rotary embeddings in place, by copies of transformers' own forwards that find another function under its name.

Nothing of transformers is changed: a class's forward is copied with other globals, and the copy put on a replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import CellType, FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from instsel.kernels.layer_operations import DTYPES, rotate_in_place

ROTARY = "apply_rotary_pos_emb"
Rotary = Callable[..., Any]  # turns queries and keys by cos and sin


def rotary_functions(kinds: Iterable[type]) -> set[Rotary]:
    """Those that the forwards of some classes of modules call and that turn halves of a head against each other."""
    functions = {_named(cast(Any, kind).forward, ROTARY) for kind in kinds}
    return {function for function in functions if function is not None and _rotates_halves(function)}


def rotating_forward(kind: type, known: set[Rotary]) -> FunctionType | None:
    """A class's forward with the rotary function in one pass in place of its own; None where its own is not `known`."""
    forward: Any = cast(Any, kind).forward
    own = _named(forward, ROTARY)
    return _renamed(forward, ROTARY, partial(_rotate, own)) if own is not None and own in known else None


def _named(function: Any, name: str) -> Callable[..., Any] | None:
    """What a function, or one that it decorates, finds under a name of its module."""
    if type(function) is not FunctionType:
        return None
    if name in function.__code__.co_names and callable(found := function.__globals__.get(name)):
        return found
    inner = getattr(function, "__wrapped__", None)
    return None if inner is None else _named(inner, name)


def _renamed(function: FunctionType, name: str, value: Any) -> FunctionType:
    """The function with another value under a name of its module, also within what it decorates."""
    names = {**function.__globals__, name: value} if name in function.__code__.co_names else function.__globals__
    cells = tuple(_renamed_cell(cell, name, value) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy).update(vars(function))
    if _named(inner := vars(copy).get("__wrapped__"), name) is not None:
        vars(copy)["__wrapped__"] = _renamed(cast(FunctionType, inner), name, value)
    return copy


def _renamed_cell(cell: CellType, name: str, value: Any) -> CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not yet filled
        return cell
    return CellType(_renamed(inner, name, value)) if _named(inner, name) is not None else cell


def _rotates_halves(own: Callable[..., Any]) -> bool:
    """Whether a rotary function turns the halves of the whole head against each other."""
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randn, generator=generator, dtype=torch.float32)
    q, k = (draw(1, 5, heads, 8).transpose(1, 2) for heads in (4, 2))
    cos, sin = (draw(1, 5, 8) for _ in range(2))
    try:
        expected = own(q.clone(), k.clone(), cos, sin)
        copies = [x.transpose(1, 2).clone() for x in (q, k)]
        return all(
            torch.allclose(want, rotate_in_place(x[0], cos[0], sin[0]).transpose(0, 1)[None], atol=1e-5)
            for want, x in zip(expected, copies, strict=True)
        )
    except Exception:  # whatever a part of another kind raises
        return False


def _rotate(own: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **more: Any) -> Any:
    """Rotary embedding in place of fresh projections [1, heads, T, d]; the model's own where the layout is another."""
    in_order = [x.transpose(1, 2) for x in (q, k)]
    usable = all(x.is_contiguous() and x.shape[0] == 1 and x.dtype == cos.dtype for x in in_order)
    usable = usable and cos.dtype in DTYPES and not any(x.requires_grad for x in in_order)
    if rest or more or not usable or cos.shape[:1] != (1,) or cos.shape[-1] != q.shape[-1]:
        return own(q, k, cos, sin, *rest, **more)
    turn = cos[0].contiguous(), sin[0].contiguous()
    for x in in_order:
        rotate_in_place(x[0], *turn)
    return q, k
