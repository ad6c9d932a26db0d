"""What of a tree of modules decides how it can be run, in values that can be compared: equal ones, equal findings.

That is every plain value that a module, or a configuration that it holds, keeps as an attribute, the kinds of its
tensors, the functions that its class's forward calls by name, and hooks. Contents of weights are not: what is found out
about a model must hold whatever they are. Buffers, which forwards take for constants, count as changed when written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size})
_WITHOUT_ATTRIBUTES = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_OWN = frozenset(vars(nn.Module()))  # what torch.nn.Module itself keeps
_LARGEST = 1024  # entries of a container that are compared one by one
_DEEPEST = 3  # objects within objects

Changes = frozenset[tuple[int, str]]  # what forwards change themselves: entry and name


class Signature:
    """One entry a module, class or configuration: what is seen of each, by name."""

    def __init__(self) -> None:
        self.entries: list[dict[str, object]] = []
        self._seen: dict[int, int] = {}  # by id of a class or configuration: its entry

    def add(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """What is to be seen of a module with the attributes `state`."""
        kind = type(module)
        if id(kind) not in self._seen:
            self._seen[id(kind)] = len(self.entries)
            self.entries.append(dict(_names_of(kind)))
        entry: dict[str, object] = {"": kind, "hooks": [not state["_forward_hooks"], not state["_forward_pre_hooks"]]}
        for name, tensor in state["_parameters"].items():
            # A tensor that a model class itself holds may stand between the head's product and the logits.
            constant = tensor is not None and isinstance(module, PreTrainedModel)
            entry[name] = _constant(tensor) if constant else _kind_of(tensor)
        if state["_buffers"]:
            entry |= {
                name: tensor if tensor is None else _constant(tensor) for name, tensor in state["_buffers"].items()
            }
        self.entries.append(entry)
        for name in state.keys() - _OWN:
            value = state[name]
            entry[name] = value if type(value) in _PLAIN else self._of(value)

    def agrees(self, other: Signature, but_for: Changes = frozenset()) -> bool:
        """Whether two models can be run alike, so far as is known."""
        if self.entries == other.entries:
            return True
        return bool(but_for) and len(self.entries) == len(other.entries) and not self.changes(other) - but_for

    def changes(self, other: Signature) -> Changes:
        """Where two signatures of one tree differ; nothing that could be named where they have unlike entries."""
        if len(self.entries) != len(other.entries):
            return frozenset()
        pairs = enumerate(zip(self.entries, other.entries, strict=True))
        return frozenset(
            (place, name)
            for place, (one, two) in pairs
            if one != two
            for name in one.keys() | two.keys()
            if name not in one or name not in two or one[name] != two[name]
        )

    def _of(self, value: Any, depth: int = 0) -> object:
        kind = type(value)
        if kind in _PLAIN or isinstance(value, (Enum, int, float, str)):
            return value
        if isinstance(value, Tensor):
            return _constant(value)
        if isinstance(value, nn.Module):
            return kind  # it has an entry of its own
        if kind in (list, tuple, dict, set, frozenset):
            if len(value) > _LARGEST:
                return kind, len(value), _Same(value)
            if kind is dict:
                return kind, [(key, self._of(item, depth)) for key, item in value.items()]
            items = [self._of(item, depth) for item in value]
            return kind, frozenset(items) if kind in (set, frozenset) else items
        if isinstance(value, _WITHOUT_ATTRIBUTES) or depth >= _DEEPEST or not hasattr(value, "__dict__"):
            return _Same(value)
        return self._attributes(value, depth)

    def _attributes(self, value: object, depth: int) -> int:
        """The entry of an object such as a configuration."""
        known = self._seen.get(id(value))
        if known is not None:
            return known
        place = self._seen[id(value)] = len(self.entries)
        entry: dict[str, object] = {"": type(value)}
        self.entries.append(entry)
        for name, item in list(vars(value).items()):
            entry[name] = item if type(item) in _PLAIN else self._of(item, depth + 1)
        attention = entry.get("_attn_implementation_internal")
        if isinstance(attention, str):
            entry["attention"] = _Same(ALL_ATTENTION_FUNCTIONS.get(attention))
        return place


class _Same:
    """Equal to the same object only, which it keeps alive so that no other comes to its address."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _names_of(kind: type) -> Iterator[tuple[str, object]]:
    """A class's forward, and what it, or what it decorates, finds under the names of its module."""
    function: Any = cast(Any, kind).forward
    yield "", _Same(function)
    while isinstance(function, FunctionType):
        for name in function.__code__.co_names:
            found = function.__globals__.get(name)
            if found is not None and not isinstance(found, ModuleType):
                yield name, found if type(found) in _PLAIN else _Same(found)
        function = getattr(function, "__wrapped__", None)


def _kind_of(tensor: Tensor | None) -> object:
    return None if tensor is None else (type(tensor), tensor.dtype, tensor.device, tensor.shape)


def _constant(tensor: Tensor) -> tuple[object, ...]:
    """The tensor and how often it was written to; what was made in inference mode does not count."""
    return _Same(tensor), None if tensor.is_inference() else tensor._version, _kind_of(tensor)
