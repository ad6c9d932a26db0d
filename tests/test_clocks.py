"""No test that `make test` runs holds the time on a clock against anything: beside other work it would fail."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

CLOCKS = {"time.time", "time.monotonic", "time.perf_counter"}
FILES = sorted(Path(__file__).parent.glob("test_*.py"))


def is_slow(node: ast.stmt) -> bool:
    return any("pytest.mark.slow" in ast.unparse(mark) for mark in getattr(node, "decorator_list", []))


def asserted_times(source: str) -> list[int]:
    """Lines of assertions that read a clock, outside what is marked slow."""
    tree = ast.parse(source)
    marks = [node for node in tree.body if ast.unparse(node).startswith("pytestmark =")]
    if any("pytest.mark.slow" in ast.unparse(node) for node in marks):
        return []
    asserts = [
        found for node in tree.body if not is_slow(node) for found in ast.walk(node) if isinstance(found, ast.Assert)
    ]
    return [
        found.lineno
        for found in asserts
        if CLOCKS & {ast.unparse(call.func) for call in ast.walk(found.test) if isinstance(call, ast.Call)}
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_time_is_asserted(path: Path) -> None:
    assert asserted_times(path.read_text(encoding="utf-8")) == []


def test_an_asserted_time_is_found() -> None:
    body = "def test_it():\n    start = time.monotonic()\n    assert time.monotonic() - start < 5\n"
    assert asserted_times(body) == [3]
    assert asserted_times("@pytest.mark.slow\n" + body) == []
    assert asserted_times("pytestmark = pytest.mark.slow\n" + body) == []
