"""How a worker finds a method: by its name, by its module, or by the text of its plug-in file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from instsel.methods.method import Method
from instsel.methods.registry import PLUGIN_MODULES, load_plugin

_texts: dict[str, str] = {}  # in a worker: the plug-ins that it has loaded


@dataclass(frozen=True, slots=True)
class MethodReference:
    """Where a method is defined; a plug-in's text goes along, for a machine that lacks the file."""

    name: str
    module: str
    path: str | None = None
    text: str | None = None

    def find(self) -> Method:
        """The method, its module imported. Raises ValueError where it is not to be found here."""
        if self.text is not None and _texts.get(self.module) != self.text:  # new, or changed since it was loaded
            load_plugin(self.module, str(self.path), self.text)
            _texts[self.module] = self.text
        try:
            module = importlib.import_module(self.module)
        except ImportError as error:
            raise ValueError(f"the method {self.name!r} is defined in {self.module}, which a worker lacks") from error
        found = _in_module(module, self.name)
        if found is None:
            raise ValueError(f"a worker's {self.module} holds no method {self.name!r}")
        return found


def reference_to(method: Method) -> MethodReference | None:
    """The reference to a method, or None where other processes could not follow it: a script's own, a local one."""
    name = method.build.__module__
    module = sys.modules.get(name)
    if name == "__main__" or module is None or _in_module(module, method.name) is not method:
        return None
    if not name.startswith(PLUGIN_MODULES):
        return MethodReference(method.name, name)
    path = str(module.__file__)
    return MethodReference(method.name, name, path, Path(path).read_text(encoding="utf-8"))


def _in_module(module: object, name: str) -> Method | None:
    for value in list(vars(module).values()):
        found = getattr(value, "method", None)
        if isinstance(found, Method) and found.name == name:
            return found
    return None
