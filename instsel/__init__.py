"""Exact, fast scoring of instruction-tuning data under a causal language model, and selection from it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

__version__ = "0.2.0"


def _public_names() -> dict[str, str]:
    """Each public name and the module that holds it, as the stub says: type checkers read the same lines."""
    lines = Path(__file__).with_name("__init__.pyi").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line.startswith("from instsel")]
    return {name: module for _, module, _, name, *_ in words}


# PyTorch and transformers take seconds to import: each name loads its module when first used.
_MODULES = _public_names()

__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if module == __name__:
        return import_module(f"{module}.{name}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return list(__all__)
