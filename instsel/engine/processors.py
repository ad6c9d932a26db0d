"""Processors that this process may use, and threads that leave those of others alone.

A machine is shared: with other processes, and by containers that may use a part of it. Two things keep a call near its
fair share there. Threads are no more than the processors that the process may use: more of them than a quota allows
are all stopped together until its next period. And threads that wait for each other sleep. GNU's OpenMP, which
PyTorch's operators and the kernels run on, lets them spin for milliseconds (300,000 rounds of GOMP_SPINCOUNT); beside
other processes each round is taken from the thread that is waited for. It spins only briefly once it has more threads
than there are processors, so a team of threads that do nothing stands by while others want the processors.
"""

from __future__ import annotations

import functools
import math
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # who sets one of these has chosen a number of threads
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # and of these how they wait


def usable_processors(root: Path = Path("/")) -> int:
    """Processors that this process may keep busy: those that it is bound to, or fewer by the quota of its cgroup.

    root  where /proc and /sys are

    >>> 1 <= usable_processors() <= os.cpu_count()
    True
    """
    bound, quota = _bound(), _quota(root)
    return bound if quota >= bound else math.ceil(quota)


def _bound() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota(root: Path) -> float:
    """Processors that the cgroups of this process may use, its own and those above it; infinity without a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return math.inf
    found = [math.inf]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2
            top, read = root / "sys/fs/cgroup", _quota_of_version_2
        elif "cpu" in controllers.split(","):
            top, read = root / "sys/fs/cgroup/cpu", _quota_of_version_1
        else:
            continue
        # Within a container the path may be the host's, of which only the top is to be seen.
        group = top / path.lstrip("/")
        found += [read(folder) for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return min(found)


def _quota_of_version_2(folder: Path) -> float:
    return _share(folder / "cpu.max")


def _quota_of_version_1(folder: Path) -> float:
    return _share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")


def _share(*files: Path) -> float:
    """Quota by period, both in microseconds; infinity where there is none."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text().split())
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


@functools.cache  # files are read once a process, not once a call
def _usable_here() -> int:
    return usable_processors()


@contextmanager
def sharing_processors() -> Iterator[None]:
    """Within this block PyTorch has no more threads than processors to use, and those that wait for others sleep.

    Neither is done where somebody has chosen: the number by OMP_NUM_THREADS or MKL_NUM_THREADS, or by telling PyTorch
    to take more than it would by itself; the waiting by OMP_WAIT_POLICY or GOMP_SPINCOUNT. No score depends on either.
    """
    import torch

    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    chosen = before > _bound() or any(name in os.environ for name in CHOSEN)
    usable = before if chosen else min(_usable_here(), before)
    with ExitStack() as stack:
        if usable < before:
            _tell_once(usable, before)
            torch.set_num_threads(usable)
            stack.callback(torch.set_num_threads, before)
        stack.enter_context(sleeping_waits())
        yield


@contextmanager
def sleeping_waits() -> Iterator[None]:
    """Within this block threads that wait for each other sleep, if the processors are wanted by more as it begins.

    Alone they spin, as that is a few hundredths faster where much is waited for.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1 or any(name in os.environ for name in WAITING) or not are_contended(threads):
        yield
        return
    # Those of this team and of the one that computes are to be more than the processors.
    with _idle_team.standing_by(max((os.cpu_count() or 1) - threads, 0) + 2):
        yield


def are_contended(threads: int, root: Path = Path("/")) -> bool:
    """Whether `threads` of this process and what else runs now are more than the processors, or a quota counts what
    is burnt; `root` is where /proc is."""
    if _usable_here() < _bound():
        return True
    try:
        running = int((root / "proc/loadavg").read_text().split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):  # a system that does not say, and has another OpenMP
        return False
    return running - 1 + threads > (os.cpu_count() or 1)  # this thread is one of those that run


class _IdleTeam:
    """A team of threads that does nothing, while somebody wants it and a little longer: to form one takes as long as a
    short call."""

    LINGER = 1.0  # seconds

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._left = 0.0  # when the last user went
        self._size = 0

    @contextmanager
    def standing_by(self, size: int) -> Iterator[None]:
        """Within this block there is a team of at least so many threads."""
        with self._lock:
            self._users += 1
            if self._size < size:
                self._size = size
                formed = threading.Event()
                threading.Thread(target=self._stand_by, args=(size, formed), name="instsel-idle", daemon=True).start()
                formed.wait()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._left = time.monotonic()

    def _stand_by(self, size: int, formed: threading.Event) -> None:
        self._form(size)
        formed.set()
        while True:
            time.sleep(self.LINGER)
            with self._lock:
                if size < self._size:  # a larger one has been formed
                    return
                if self._users == 0 and time.monotonic() - self._left >= self.LINGER:
                    self._size = 0
                    return

    @staticmethod
    def _form(size: int) -> None:
        from instsel.kernels import _native

        _native.form_team(size)


_idle_team = _IdleTeam()
_told: set[tuple[int, int]] = set()


def _tell_once(usable: int, before: int) -> None:
    if (usable, before) not in _told:
        _told.add((usable, before))
        warnings.warn(
            f"{usable} of {before} threads are used, as the quota of this process allows no more processors; "
            f"{CHOSEN[0]} sets another number",
            stacklevel=3,
        )


def _after_fork_in_child() -> None:
    global _idle_team
    _idle_team = _IdleTeam()  # no thread but the one that forked is there


os.register_at_fork(after_in_child=_after_fork_in_child)
