"""The examples in docstrings give what they say: those of every module that has some and whose host is installed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The kernels stand beside the package here and within it where it is installed.
FILES = {path: path.relative_to(ROOT) for path in sorted((ROOT / "instsel").rglob("*.py"))}
FILES |= {path: "instsel" / path.relative_to(ROOT) for path in sorted((ROOT / "kernels").glob("*.py"))}
FILES |= {path: path.relative_to(ROOT / "benchmarks") for path in sorted((ROOT / "benchmarks").glob("*/*.py"))}
MODULES = [
    ".".join(name.with_suffix("").parts) for path, name in FILES.items() if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_real(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if not name.startswith("instsel.integrations."):
            raise
        pytest.skip(str(error))
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_examples_are_found() -> None:
    expected = {"instsel.kernels.tree_segments", "instsel.methods.correlation", "instsel.report.reading"}
    assert expected | {"demo_model.limits"} <= set(MODULES)
