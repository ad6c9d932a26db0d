"""The instruction sets by which the C++ kernels can be asked to run, and which of them this processor has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from instsel.kernels import _native

NAMES = ("plain", "avx2", "avx512", "avx512_bf16", "amx")
WITH_BFLOAT16 = ("avx512_bf16", "amx")


def is_here(name: str) -> bool:
    try:
        return bool(_native.choose_instruction_set(name))
    except ValueError:
        return False


@contextmanager
def forced(name: str) -> Iterator[str]:
    """Ask for an instruction set, or with "" for the best; the test is skipped where the processor has no such."""
    if not is_here(name):
        pytest.skip(f"this processor has no {name}")
    with mock.patch.dict(os.environ, INSTSEL_INSTRUCTION_SET=name):
        yield name
