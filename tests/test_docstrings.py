"""The examples in docstrings of neighbours, probes, selection and methods give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "neighbors.embeddings", "neighbors.nearest", "neighbors.probes", "neighbors.clusters", "selection.selector",
    "selection.quotas", "selection.labels", "methods.correlation", "methods.grape", "methods.nuggets",
    "demo.corpus", "demo.families.family", "demo.limits", "demo.separation",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_real(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"instsel.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
