"""Short convolutions and recurrences along a prefix tree: a node goes on from what its parent ended with.

A mixer of transformers calls a few functions that it finds in its module: a causal convolution, and a scan that takes
an initial state. On a replica it finds those of `mixer_functions` instead, made for the model's own: nothing of its
module is changed, but the class's forward is copied with other globals and the copy put on the replica.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, cast

from torch import nn

from instsel.layers.mixer_functions import ALONG_TREE
from instsel.layers.replica import Replica


def put_recurrences(replica: Replica) -> int:
    """Has the mixers of a replica find the functions that go along a tree; gives how many mixers there are."""
    found = 0
    forwards: dict[type, FunctionType | None] = {}
    for module in replica.modules:
        kind = type(module)
        if kind not in forwards:
            forwards[kind] = _forward_along_tree(kind)
        forward = forwards[kind]
        if forward is not None and "forward" not in vars(module):
            replica.put_forward(module, MethodType(forward, module))
            found += 1
    return found


def _forward_along_tree(kind: type[nn.Module]) -> FunctionType | None:
    """A class's forward that finds other functions under the names that it uses; None where it uses none of them."""
    forward: Any = cast(Any, kind).forward
    changed = False
    for name, function in ALONG_TREE.items():
        own = _named(forward, name)
        if own is not None:
            forward, changed = _renamed(forward, name, partial(function, own)), True
    return forward if changed else None


def _named(function: object, name: str) -> Callable[..., Any] | None:
    """What a function, or one that it decorates, finds under a name of its module; None where it uses no such name."""
    if type(function) is not FunctionType:
        return None
    if name in function.__code__.co_names and callable(found := function.__globals__.get(name)):
        return found
    inner = getattr(function, "__wrapped__", None)
    return None if inner is None else _named(inner, name)


def _renamed(function: FunctionType, name: str, value: object) -> FunctionType:
    """The function with another value under a name of its module, also within what it decorates."""
    names = {**function.__globals__, name: value} if name in function.__code__.co_names else function.__globals__
    cells = tuple(_renamed_cell(cell, name, value) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy).update(vars(function))
    if _named(inner := vars(copy).get("__wrapped__"), name) is not None:
        vars(copy)["__wrapped__"] = _renamed(cast(FunctionType, inner), name, value)
    return copy


def _renamed_cell(cell: CellType, name: str, value: object) -> CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not yet filled
        return cell
    return CellType(_renamed(inner, name, value)) if _named(inner, name) is not None else cell
