"""The threads of the C++ kernels, divided where several threads of Python run packs at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_here = threading.local()


class ThreadShares:
    """`total` threads for several users, each in a thread of Python: equal shares, and what one leaves the others get.

    A kernel takes its share when it is called. No kernel's result depends on its number of threads.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._users = 0
        self._lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Within this block, in this thread, kernels have a share of the threads and PyTorch's operators one thread.

        Two pools of all cores' threads, one for each user, would wait for each other at every operator.
        """
        from . import _native

        torch.get_num_threads()  # what a new thread is set to when it first asks, which must not be later
        before = _native.set_openmp_threads(1)
        self._count(1)
        _here.shares = self
        try:
            yield
        finally:
            _here.shares = None
            self._count(-1)
            _native.set_openmp_threads(before)

    def share(self) -> int:
        """Threads for each user, as things stand."""
        return max(self.total // max(self._users, 1), 1)

    def _count(self, change: int) -> None:
        with self._lock:
            self._users += change


def kernel_threads() -> int:
    """Threads for a kernel that is called from here: as many as PyTorch's operators take, or a share of them."""
    shares: ThreadShares | None = getattr(_here, "shares", None)
    return torch.get_num_threads() if shares is None else shares.share()
