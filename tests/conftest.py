"""The small real model as a scorer, and the float64 forwards of one sequence at a time that it is held to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from one_by_one import OneByOne
from tiny_model import tiny_model_folder

import instsel
from instsel.parallel.pool import Pool


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def truth() -> OneByOne:
    return OneByOne(tiny_model_folder())


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Two workers with that model."""
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.workers(scorer, ["cpu", "cpu"]) as pool:
        yield pool


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's store in memory, emptied after."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]
