"""The small real model as a scorer, and the float64 forwards of one sequence at a time that it is held to."""

from __future__ import annotations

import pytest
from one_by_one import OneByOne
from tiny_model import tiny_model_folder

import instsel


@pytest.fixture(scope="module")
def scorer() -> instsel.Scorer:
    return instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def truth() -> OneByOne:
    return OneByOne(tiny_model_folder())
