"""A copy of a tree of modules that shares its tensors: the engine changes the copy and never the user's model.

Every module gets a new object of its class with a copy of its attributes; parameters and buffers are the same tensors.
What leads from a module's attributes back to the tree (its children, its bound methods, a forward that another library
has put in) leads to the copies instead. Copies are in evaluation mode, have configurations of their own and run no
compiled code. Making one takes a few microseconds a module, so that one is made for each call, which thereby sees the
model as it is when the call begins.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from instsel.layers.signature import Signature

PLAIN_TENSORS = (Tensor, nn.Parameter, nn.Buffer)

_LEAVES = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, Tensor, nn.Parameter}
)
# What torch.nn.Module itself keeps; hooks are looked at where there are any.
_OWN_COPIES = ("_parameters", "_buffers")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_OF_TRAINING = ("_backward_hooks", "_backward_pre_hooks")
_KNOWN = frozenset(vars(nn.Module()))


class Replica:
    """A copy of `root` and all that hangs on it, made when constructed.

    root       the copy of `root`
    modules    all copies, in an order that depends on the tree alone
    signature  what decides how they can be run
    """

    def __init__(self, root: nn.Module) -> None:
        self.modules: list[nn.Module] = []
        self.ours: set[nn.Module] = set()  # modules that were given another forward
        self.signature = Signature()
        self._copies: dict[int, Any] = {}  # by id of the original
        self._pending: list[tuple[nn.Module, nn.Module]] = []
        self._methods: list[tuple[dict[str, object], str]] = []  # attributes that lead back to their own module
        self.root = self.of(root)
        while self._pending:
            self._fill(*self._pending.pop())

    def of(self, module: nn.Module) -> Any:
        """The copy of a module."""
        found = self._copies.get(id(module))
        if found is not None:
            return found
        if isinstance(module, torch.jit.ScriptModule):  # cannot be copied this way
            copy: Any = module
        elif "_orig_mod" in module._modules and type(module).__name__ == "OptimizedModule":
            copy = self.of(module._modules["_orig_mod"])  # type: ignore[arg-type]
        else:
            copy = object.__new__(type(module))
            self._pending.append((module, copy))
        self._copies[id(module)] = copy
        return copy

    def put_forward(self, module: nn.Module, forward: Callable[..., object]) -> None:
        """Gives a copy another forward."""
        state = vars(module)
        state["forward"] = forward
        self.ours.add(module)
        self._methods.append((state, "forward"))

    def close(self) -> None:
        """Parts modules from their methods, which would keep them, and the user's weights, until the next sweep."""
        for state, name in self._methods:
            state.pop(name, None)
        self._methods.clear()

    def _fill(self, module: nn.Module, copy: nn.Module) -> None:
        state = vars(module).copy()
        object.__setattr__(copy, "__dict__", state)  # nn.Module looks at the kind of every value that it is given
        self.modules.append(copy)
        state["training"] = False
        if "gradient_checkpointing" in state:
            state["gradient_checkpointing"] = False
        if "_compiled_call_impl" in state:
            state["_compiled_call_impl"] = None
        self.signature.add(module, state)
        for name in _OWN_COPIES:
            state[name] = state[name].copy()
        for name in _OF_TRAINING:
            state[name] = {}
        state["_modules"] = {
            name: None if child is None else self.of(child) for name, child in state["_modules"].items()
        }
        for name in _HOOKS:  # a copy in any case, as a forward may add hooks to itself
            state[name] = (
                OrderedDict((key, self._changed(hook)) for key, hook in hooks.items())
                if (hooks := state[name])
                else OrderedDict()
            )
        for name in state.keys() - _KNOWN:
            value = state[name]
            if type(value) in _LEAVES:
                continue
            changed = self._changed(value)
            if changed is not value:
                state[name] = changed
                if not isinstance(changed, PreTrainedConfig):
                    self._methods.append((state, name))

    def _changed(self, value: Any, depth: int = 0) -> Any:
        """The value with every module in it replaced by its copy; the value itself where there is none."""
        kind = type(value)
        if kind in _LEAVES or depth > 6:
            return value
        if isinstance(value, nn.Module):
            return self.of(value)
        if isinstance(value, PreTrainedConfig):
            return self._config(value)
        if kind is MethodType:
            owner, function = self._changed(value.__self__, depth + 1), self._changed(value.__func__, depth + 1)
            same = owner is value.__self__ and function is value.__func__
            return value if same else MethodType(function, owner)
        if kind is partial:
            parts = (value.func, value.args, value.keywords, vars(value))
            changed = [self._changed(part, depth + 1) for part in parts]
            if all(new is old for new, old in zip(changed, parts, strict=True)):
                return value
            copied = partial(changed[0], *changed[1], **changed[2])
            vars(copied).update(changed[3])
            return copied
        if kind is FunctionType:
            return self._function(value, depth)
        if kind in (list, tuple):
            items = [self._changed(item, depth + 1) for item in value]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else kind(items)
        if kind is dict:
            entries = {key: self._changed(item, depth + 1) for key, item in value.items()}
            return value if all(entries[key] is item for key, item in value.items()) else entries
        return value

    def _config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        copy = self._copies.get(id(config))
        if copy is None:
            copy = self._copies[id(config)] = object.__new__(type(config))
            for name, value in vars(config).items():
                vars(copy)[name] = self._config(value) if isinstance(value, PreTrainedConfig) else value
        return copy

    def _function(self, function: FunctionType, depth: int) -> Any:
        """A function that holds modules in its closure or defaults, such as a forward that a library has put in."""
        own = getattr(function, "_torchdynamo_orig_callable", None)
        if own is not None:  # compiled for the original module
            return self._changed(own, depth + 1)
        if id(function) in self._copies:
            return self._copies[id(function)]
        self._copies[id(function)] = function
        cells = tuple(self._cell(cell, depth) for cell in function.__closure__ or ())
        defaults = self._changed(function.__defaults__, depth + 1)
        keyword_defaults = self._changed(function.__kwdefaults__, depth + 1)
        if (
            all(new is old for new, old in zip(cells, function.__closure__ or (), strict=True))
            and defaults is function.__defaults__
            and keyword_defaults is function.__kwdefaults__
        ):
            return function
        copy = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, cells or None)
        copy.__kwdefaults__ = keyword_defaults
        vars(copy).update(vars(function))
        self._copies[id(function)] = copy
        return copy

    def _cell(self, cell: CellType, depth: int) -> CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # not yet filled
            return cell
        changed = self._changed(value, depth + 1)
        return cell if changed is value else CellType(changed)
