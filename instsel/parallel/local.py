"""Workers as processes on this machine, each started afresh and spoken to over a socket of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from instsel.engine.scorer import Scorer
from instsel.parallel.crew import Died, Done, Event, Ready, Refused
from instsel.parallel.failing_scorer import moved
from instsel.parallel.tasks import Task

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class LocalCrew:
    """One process a device; `threads` of the processor for each."""

    def __init__(self, scorer: Scorer, devices: Sequence[str], threads: int) -> None:
        self.places = list(devices)
        self._threads = threads
        self._starts = [pickle.dumps(Scorer(**moved(scorer, device_within(device)))) for device in devices]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * len(devices)
        self._lines: list[Connection | None] = [None] * len(devices)
        self._sent: list[set[str]] = [set() for _ in devices]

    def start(self, worker: int) -> None:
        """Start a process; see `Crew`."""
        ours, theirs = Pipe()
        # By a command line of its own, not by multiprocessing: that would import the user's script a second time, and
        # a notebook has none. It ends with this process: by the end of its line, and on Linux by the kernel's word,
        # which is given when the thread ends that started it, so only the main thread may ask for it.
        first = threading.current_thread() is threading.main_thread()
        call = f"serve({theirs.fileno()}, {os.getpid()}, {first})"
        program = f"import sys; sys.path[:] = {sys.path!r}; from instsel.parallel.process import serve; {call}"
        with theirs:
            self._processes[worker] = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                env=self._environment(self.places[worker]),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print is not the command's output
                start_new_session=True,  # a terminal's Ctrl-C is for the driver, which then ends its workers
            )
        self._lines[worker] = ours
        self._sent[worker] = set()
        self._say(worker, ("start", self._starts[worker], self._threads, worker > 0))

    def _environment(self, device: str) -> dict[str, str]:
        own = {name: str(self._threads) for name in _THREADS}
        own["TOKENIZERS_PARALLELISM"] = "true" if self._threads > 1 else "false"
        if device.startswith("cuda"):
            own["CUDA_VISIBLE_DEVICES"] = visible_device(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return {**os.environ, **own}

    def send(self, worker: int, task: Task, shared: Mapping[str, bytes]) -> None:
        """Send a task, before it what it shares with others and was not sent yet."""
        for key in task.uses:
            if key not in self._sent[worker]:
                self._say(worker, ("keep", key, shared[key]))
                self._sent[worker].add(key)
        self._say(worker, ("task", task))

    def forget(self, keys: Iterable[str]) -> None:
        """Tell all workers; see `Crew`."""
        keys = list(keys)
        for worker, sent in enumerate(self._sent):
            if sent & set(keys):
                self._say(worker, ("forget", keys))
                sent -= set(keys)

    def _say(self, worker: int, message: tuple[Any, ...]) -> None:
        line = self._lines[worker]
        if line is not None:
            with contextlib.suppress(OSError):  # it is dead: the end of its line says so to `events`
                line.send(message)

    def events(self, timeout: float) -> list[Event]:
        """What the processes have sent; see `Crew`."""
        lines = {line: worker for worker, line in enumerate(self._lines) if line is not None}
        if not lines:
            time.sleep(timeout)
        return [self._read(lines[line], line) for line in wait(list(lines), timeout)]  # type: ignore[index, arg-type]

    def _read(self, worker: int, line: Connection) -> Event:
        try:
            word, *rest = line.recv()
        except (EOFError, OSError):
            return Died(worker, self._end(worker))
        if word == "ready":
            return Ready(worker, *rest)
        if word == "refused":
            return Refused(worker, *rest)
        return Done(worker, *rest)

    def stop(self, worker: int) -> None:
        """Kill the process; see `Crew`."""
        self._end(worker)

    def _end(self, worker: int) -> str:
        """Make sure that a process is gone; gives how it ended."""
        process, line = self._processes[worker], self._lines[worker]
        self._processes[worker] = self._lines[worker] = None
        if line is not None:
            line.close()
        if process is None:
            return "gone"
        try:
            code = process.wait(0.2)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Kill all processes: they hold nothing that is not sent."""
        for process in self._processes:
            if process is not None:
                process.kill()
        for worker in range(len(self._processes)):
            self._end(worker)


def device_within(device: str) -> str:
    """What a device is called in its worker, which sees no other GPU: everything there that asks for a GPU gets it."""
    return "cuda" if device.startswith("cuda") else device


def visible_device(device: str, visible: str | None) -> str:
    """The CUDA_VISIBLE_DEVICES of a worker on a device or several, given the driver's own.

    >>> visible_device("cuda:1", None), visible_device("cuda:1", "4,6"), visible_device("cuda", "4,6")
    ('1', '6', '4')
    >>> visible_device("cuda:2,cuda:3", None)
    '2,3'
    """
    numbers = [int(one.partition(":")[2] or 0) for one in device.split(",")]
    names = [part.strip() for part in visible.split(",")] if visible else None
    return ",".join(str(number) if names is None else names[number] for number in numbers)


def threads_for(workers: int) -> int:
    """Threads of each worker: the processor's cores divided, or fewer where OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    each = max(cores // workers, 1)
    return min(each, int(asked)) if asked.isdigit() and int(asked) else each
