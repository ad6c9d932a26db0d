"""The small real model as a scorer, the float64 forwards of one sequence at a time that it is held to, and the tiers.

`make test` gives files to several processes, a file to one of them, those that take longest first. A file needs no mark
for it: its tests may share what is made once a module, and whatever they start has ports and folders of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as processors: before torch counts those
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Threads that wait leave the processors to other processes of tests. OpenMP reads this once, when torch loads it; the
# program under test would wait in another way if it found it set.
with mock.patch.dict(os.environ, {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}):
    import torch

import hypothesis
import pytest
from one_by_one import OneByOne
from tiny_model import load_models_once, tiny_model_folder

import instsel
from instsel.parallel.pool import Pool

# No example is too slow: how long one takes says how busy the machine is.
hypothesis.settings.register_profile(
    "instsel", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("instsel")

# A long file that is begun last is waited for by all other processes.
LONGEST_FIRST = (
    "test_triton_recurrences.py", "test_triton_kernels.py", "test_recurrences.py", "test_ray_workers.py",
    "test_worker_runs.py", "test_run_kills.py", "test_worker_docs.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which the files are given out; that within a file stays."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


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
def one_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of one process load a model once."""
    load_models_once(monkeypatch)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """For what divides its work among threads: two, also where the processes of `make test` have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, 2))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def store() -> Iterator[Any]:
    """fsspec's store in memory, emptied after."""
    import fsspec

    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]
