"""The C library's allocator, told to keep what is freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameter numbers (glibc, malloc.h)
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Keeps freed blocks for the next allocation instead of giving them back to the system, where glibc is used.

    Every forward on a CPU allocates the same large activations again. Given back, their pages have to be mapped and
    cleared anew each time, which takes as long as a third of the matrix products between them.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
