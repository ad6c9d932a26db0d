"""Adapters for other tools stay short, and use nothing of instsel that is private."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ADAPTERS = sorted((Path(__file__).parents[1] / "instsel/integrations").glob("[a-z]*.py"))


def private_names(source: str) -> Iterator[str]:
    """What is imported from instsel by a name that begins with an underscore, as module or as a part of one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (module + alias.name for alias in node.names):
                if name.startswith("instsel") and any(part.startswith("_") for part in name.split(".")):
                    yield name


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_an_adapter_is_short_and_uses_nothing_private(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 120
    assert list(private_names(source)) == []


def test_private_names_are_found() -> None:
    source = (
        "import instsel.kernels._native\nfrom instsel.engine import _a, b\nimport numpy._core\nfrom instsel import c"
    )
    assert list(private_names(source)) == ["instsel.kernels._native", "instsel.engine._a"]
    assert len(ADAPTERS) == 5
