"""One writer a run folder: a lock file that a dead process does not keep."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from instsel.runs.regular_files import read_regular
from instsel.runs.run_files import LOCK

_MAX_BYTES = 4096  # of a lock file
_MAX_PID = 2**31  # beyond it the system's calls overflow


class FolderInUseError(Exception):
    """Another living process holds the run folder's lock."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that wrote a lock file: process ids come round again, so its start time belongs to the name."""

    host: str
    pid: int
    start_time: int  # clock ticks since the machine started; 0 where the system does not say

    @classmethod
    def this_process(cls) -> Holder:
        return cls(socket.gethostname(), os.getpid(), _start_time(os.getpid()))

    def may_be_alive(self) -> bool:
        """True if the process runs, or if it belongs to another machine, where nobody here can look."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return _start_time(self.pid) == self.start_time

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class RunLock:
    """Holds `folder/lock` from `acquire` to `release`.

    The kernel's file lock decides where the file system has one: it ends with its process, however that ends. Where
    it has none, the holder written in the file decides: on the same machine a lock whose process id is gone, or
    belongs to a process with another start time, is stale and is taken over.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or raise FolderInUseError with the name of its holder."""
        while self._descriptor is None:
            if os.path.lexists(self.path) and not self.path.is_file():
                raise ValueError(f"{self.path} is not a regular file: remove it")
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                holder = read_holder(self.path)
                if not _lock(descriptor, else_held=holder is not None and holder.may_be_alive()):
                    raise FolderInUseError(
                        f"{self.path.parent} is being written by {holder or 'another process'}; wait for it or stop it"
                    )
                if not self._is_named(descriptor):  # removed between opening and locking: lock its successor
                    os.close(descriptor)
                    continue
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(Holder.this_process())).encode(), 0)
                self._descriptor = descriptor
            except BaseException:
                os.close(descriptor)
                raise

    def _is_named(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(descriptor))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the lock back and leave the file, empty."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Remove the file while holding the lock: a process that has it open sees that and starts anew."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


def read_holder(path: Path) -> Holder | None:
    """The process named in a lock file, or None if there is none or it cannot be read."""
    try:
        fields = json.loads(read_regular(path, _MAX_BYTES))
        host, pid, start_time = (fields[name] for name in ("host", "pid", "start_time"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    numbers = type(pid) is int and 0 < pid < _MAX_PID and type(start_time) is int
    return Holder(host, pid, start_time) if isinstance(host, str) and numbers else None


def is_lock(path: Path) -> bool:
    """Whether a file is one that a `RunLock` made: empty, or naming a process."""
    try:
        return not read_regular(path, _MAX_BYTES) or read_holder(path) is not None
    except (OSError, ValueError):
        return False


def running_holder(folder: Path) -> Holder | None:
    """The living process that writes a run folder now, or None."""
    holder = read_holder(folder / LOCK)
    return holder if holder is not None and holder.may_be_alive() else None


def _lock(descriptor: int, *, else_held: bool) -> bool:
    """Try the kernel's lock; `else_held` says whether the lock is held where the file system offers none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return not else_held
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            return not else_held
        raise
    return True


def _start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat; the second field may hold spaces and brackets, so count from its last bracket."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat[stat.rindex(")") + 2 :].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
