"""Memory: how much there is, and the C library's allocator, told to keep what is freed and to give it back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameter numbers (glibc, malloc.h)
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Keeps freed blocks for the next allocation instead of giving them back to the system, where glibc is used.

    Every forward on a CPU allocates the same large activations again. Given back, their pages have to be mapped and
    cleared anew each time, which takes as long as a third of the matrix products between them.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)


def available_bytes() -> int | None:
    """Memory that programs can still take without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def give_back_memory() -> None:
    """Gives blocks that were freed and kept back to the system."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
