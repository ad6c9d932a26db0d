"""Copies of functions that find something else under a name of their module.

Nothing of the module is changed: a class's forward is copied with other globals, and the copy put on a replica.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any, cast


def named(function: Any, name: str) -> Callable[..., Any] | None:
    """What a function, or one that it decorates, finds under a name of its module; None where it uses no such name."""
    if type(function) is not FunctionType:
        return None
    if name in function.__code__.co_names and callable(found := function.__globals__.get(name)):
        return found
    inner = getattr(function, "__wrapped__", None)
    return None if inner is None else named(inner, name)


def renamed(function: FunctionType, name: str, value: Any) -> FunctionType:
    """The function with another value under a name of its module, also within what it decorates."""
    names = {**function.__globals__, name: value} if name in function.__code__.co_names else function.__globals__
    cells = tuple(_renamed_cell(cell, name, value) for cell in function.__closure__ or ())
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells or None)
    copy.__kwdefaults__ = function.__kwdefaults__
    vars(copy).update(vars(function))
    if named(inner := vars(copy).get("__wrapped__"), name) is not None:
        vars(copy)["__wrapped__"] = renamed(cast(FunctionType, inner), name, value)
    return copy


def _renamed_cell(cell: CellType, name: str, value: Any) -> CellType:
    try:
        inner = cell.cell_contents
    except ValueError:  # not yet filled
        return cell
    return CellType(renamed(inner, name, value)) if named(inner, name) is not None else cell
