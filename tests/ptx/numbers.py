"""16-bit floating point numbers as bits and as float32."""

from __future__ import annotations

import numpy as np


def widen(bits: np.ndarray, kind: str) -> np.ndarray:
    """float32 of the bits of "f16" or "bf16"."""
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrow(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Bits of "f16" or "bf16", rounded to the nearest, ties to even."""
    numbers = np.ascontiguousarray(numbers, np.float32)
    if kind == "f16":
        return numbers.astype(np.float16).view(np.uint16)
    bits = numbers.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FFF), rounded)
