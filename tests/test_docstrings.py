"""The examples in docstrings of neighbours, rows, requests, selection and methods give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = (
    "neighbors.embeddings", "neighbors.nearest", "neighbors.probes", "neighbors.clusters", "selection.selector",
    "selection.quotas", "selection.labels", "methods.correlation", "methods.grape", "prompts.request_pairs",
    "prompts.own_template", "prompts.building", "prompts.templates", "records.examples", "records.formats",
    "records.row_sources", "runs.hub_datasets", "runs.score_columns", "demo.corpus", "demo.families.family",
    "methods.nuggets", "demo.limits", "demo.separation",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_real(name: str) -> None:
    module = importlib.import_module(f"instsel.{name}")
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
