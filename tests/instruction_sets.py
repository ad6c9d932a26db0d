"""The instruction sets by which the C++ kernels can be asked to run, and which of them this processor has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from instsel.kernels import _native

NAMES = ("plain", "avx2", "avx512", "avx512_bf16", "amx")
FLOAT32 = ("plain", "avx2", "avx512")  # those that differ in float32
WITH_BFLOAT16 = ("avx512_bf16", "amx")


def is_here(name: str) -> bool:
    try:
        return bool(_native.choose_instruction_set(name))
    except ValueError:
        return False


def long_but_best(kinds: Iterable[Any]) -> list[Any]:
    """Parameters, each a name or a dtype and a name: long but for the last of each dtype that this processor has."""
    pairs = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    best = {pair[:-1]: pair for pair in pairs if is_here(pair[-1])}
    return [pytest.param(*pair, marks=() if best.get(pair[:-1]) == pair else pytest.mark.long) for pair in pairs]


@contextmanager
def forced(name: str) -> Iterator[str]:
    """Ask for an instruction set, or with "" for the best; the test is skipped where the processor has no such."""
    if not is_here(name):
        pytest.skip(f"this processor has no {name}")
    with mock.patch.dict(os.environ, INSTSEL_INSTRUCTION_SET=name):
        yield name
