"""Peak memory that a function takes beyond what was in use before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], int | None]]:
    """Within the block, the function given says how many bytes more than at its beginning were in use at most.

    On a GPU what PyTorch allocated; elsewhere the process's resident memory (Linux only, None where not to be had).
    Memory that was freed but kept by the allocator is given back first: reusing it would not show.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    try:
        gc.collect()
        if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            library.malloc_trim(0)
        _RESET.write_text("5")  # sets the peak back to what is resident now
        start = _resident("VmRSS")
    except OSError:
        yield lambda: None
        return
    yield lambda: _resident("VmHWM") - start


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in {_STATUS}")
