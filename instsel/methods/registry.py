"""Which methods there are: those of the package, those that installed packages bring, those of a file."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterable
from pathlib import Path

from instsel.error_text import type_and_first_line
from instsel.methods.method import Method

# One line a method: its name and the module in whose file it stands.
BUILT_IN = {
    "perplexity": "instsel.methods.perplexity",
    "ifd": "instsel.methods.ifd",
    "wici": "instsel.methods.wici",
    "grape": "instsel.methods.grape",
    "selectit": "instsel.methods.selectit",
    "deita": "instsel.methods.deita",
    "rico": "instsel.methods.rico",
    "nuggets": "instsel.methods.nuggets",
    "miwv": "instsel.methods.miwv",
}
OLDER_NAMES = {"score": "perplexity"}
ENTRY_POINTS = "instsel.methods"
PLUGIN_MODULES = "instsel_plugin_"  # begins the names under which plug-in files are imported


def find_methods(plugins: Iterable[str | Path] = ()) -> dict[str, Method]:
    """All methods by name: the package's own, then those of installed packages' entry points, then those of files.

    Raises ValueError where two have one name, or where a plug-in cannot be loaded or holds no method.
    """
    found: dict[str, Method] = {}
    origin: dict[str, str] = {}

    def add(method: Method, source: str) -> None:
        if method.name in found or method.name in OLDER_NAMES:
            raise ValueError(
                f"{source} registers the method {method.name!r}, which {origin.get(method.name, 'instsel')} has already"
            )
        found[method.name], origin[method.name] = method, source

    for name, module in BUILT_IN.items():
        add(getattr(importlib.import_module(module), name).method, "instsel")
    for entry in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=lambda one: one.name):
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # whatever another package raises when it is imported
            raise ValueError(
                f"the installed plug-in {entry.value} cannot be loaded: {type_and_first_line(error)}"
            ) from error
        add(_method_of(loaded, f"the installed plug-in {entry.value}"), f"the installed plug-in {entry.value}")
    for path in plugins:
        for method in _methods_of_file(Path(path)):
            add(method, f"plug-in {path}")
    return found


def _methods_of_file(path: Path) -> list[Method]:
    if not path.is_file():
        raise ValueError(f"plug-in {path} is not a file")
    module = load_plugin(f"{PLUGIN_MODULES}{path.stem}", str(path))
    defined = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    methods = [value.method for value in defined if isinstance(getattr(value, "method", None), Method)]
    if not methods:
        raise ValueError(f"plug-in {path} holds no method: a function decorated by instsel.methods.definition.method")
    return methods


def load_plugin(name: str, path: str, text: str | None = None) -> types.ModuleType:
    """A plug-in file as a module of this name; `text` is its content where the file itself is on another machine.

    Raises ValueError where it cannot be loaded.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"plug-in {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        if text is None:
            spec.loader.exec_module(module)
        else:
            exec(compile(text, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise ValueError(f"plug-in {path} cannot be loaded: {type_and_first_line(error)}") from error
    return module


def _method_of(loaded: object, source: str) -> Method:
    method = loaded if isinstance(loaded, Method) else getattr(loaded, "method", None)
    if not isinstance(method, Method):
        raise ValueError(f"{source} is not a method, got {type(loaded).__name__}")
    return method
