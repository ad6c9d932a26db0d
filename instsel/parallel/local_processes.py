"""Workers as processes on this machine, each started afresh and spoken to over a socket of its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from instsel.engine.processors import usable_processors
from instsel.engine.scorer import Scorer
from instsel.parallel.moved_scorer import moved
from instsel.parallel.tasks import Task, is_error
from instsel.parallel.worker_backend import Died, Done, Event, Ready, Refused

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
_DYING = 0.5  # seconds that a process may take from its sockets' end to its own


class LocalProcesses:
    """One process a device, or a group of them with a part of the model each; `threads` of the processor for each.

    The processes of a group are the ranks of tensor parallelism: they are told the same and do it in step, and the
    first one's answers count. When one of them dies all are ended.
    """

    def __init__(self, scorer: Scorer, devices: Sequence[str], threads: int, ranks: int = 1) -> None:
        self.places = list(devices)
        self._threads, self._ranks = threads, ranks
        self._starts = [pickle.dumps(_for_worker(scorer, device, ranks)) for device in devices]
        self._processes: list[list[subprocess.Popen[bytes]]] = [[] for _ in devices]
        self._lines: list[list[Connection]] = [[] for _ in devices]
        self._sent: list[set[str]] = [set() for _ in devices]

    def start(self, worker: int) -> None:
        """Start a worker's processes; see `WorkerBackend`."""
        group = _rendezvous(self._ranks) if self._ranks > 1 else {}
        for rank in range(self._ranks):
            own = {**self._environment(self.places[worker]), **group}
            if group:
                own.update(RANK=str(rank), LOCAL_RANK=str(rank))
            self._start_process(worker, own)
        self._sent[worker] = set()
        for rank, line in enumerate(self._lines[worker]):
            with contextlib.suppress(OSError):
                line.send(("start", self._starts[worker], self._threads, worker > 0 or rank > 0))

    def _start_process(self, worker: int, environment: Mapping[str, str]) -> None:
        ours, theirs = Pipe()
        # By a command line of its own, not by multiprocessing: that would import the user's script a second time, and
        # a notebook has none. It ends with this process: by the end of its line, and on Linux by the kernel's word,
        # which is given when the thread ends that started it, so only the main thread may ask for it.
        first = threading.current_thread() is threading.main_thread()
        call = f"serve({theirs.fileno()}, {os.getpid()}, {first})"
        program = f"import sys; sys.path[:] = {sys.path!r}; from instsel.parallel.process import serve; {call}"
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print is not the command's output
                start_new_session=True,  # a terminal's Ctrl-C is for the driver, which then ends its workers
            )
        self._processes[worker].append(process)
        self._lines[worker].append(ours)

    def _environment(self, device: str) -> dict[str, str]:
        own = {name: str(self._threads) for name in _THREADS}
        own["TOKENIZERS_PARALLELISM"] = "true" if self._threads > 1 else "false"
        if self._ranks > 1 and device == "cpu":
            own["CUDA_VISIBLE_DEVICES"] = ""  # transformers would put each rank's part on a GPU
        elif device.startswith("cuda"):
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
        """Tell all workers; see `WorkerBackend`."""
        keys = list(keys)
        for worker, sent in enumerate(self._sent):
            if sent & set(keys):
                self._say(worker, ("forget", keys))
                sent -= set(keys)

    def _say(self, worker: int, message: tuple[object, ...]) -> None:
        for line in self._lines[worker]:
            with contextlib.suppress(OSError):  # it is dead: the end of its line says so to `events`
                line.send(message)

    def events(self, timeout: float) -> list[Event]:
        """What the processes have sent; see `WorkerBackend`."""
        lines = {line: worker for worker, group in enumerate(self._lines) for line in group}
        if not lines:
            time.sleep(timeout)
        found = []
        for line in wait(list(lines), timeout):
            worker = lines[line]  # type: ignore[index]
            if line in self._lines[worker]:  # not so where another of its group died a moment ago
                event = self._read(worker, line)
                found += [] if event is None else [event]
        return found

    def _read(self, worker: int, line: Connection) -> Event | None:
        """What a process says; None where it is not the one of its group that speaks for all."""
        try:
            word, *rest = line.recv()
        except (EOFError, OSError):
            return Died(worker, self._end(worker, self._lines[worker].index(line)))
        if self._ranks > 1:
            failed = word == "refused" or (word == "done" and is_error(rest[0]))
            dead = self._dead_rank(worker, _DYING if failed else 0.0)
            if dead is not None:  # what the others say then is that they lost it
                return Died(worker, self._end(worker, dead))
        if word == "refused":
            return Refused(worker, *rest)
        if line is not self._lines[worker][0]:
            return None
        return Ready(worker, *rest) if word == "ready" else Done(worker, *rest)

    def _dead_rank(self, worker: int, patience: float) -> int | None:
        """Which of a worker's processes has ended, or does within so many seconds."""
        deadline = time.monotonic() + patience
        while True:
            for rank, process in enumerate(self._processes[worker]):
                if process.poll() is not None:
                    return rank
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.01)

    def stop(self, worker: int) -> None:
        """Kill the worker; see `WorkerBackend`."""
        self._end(worker)

    def _end(self, worker: int, of: int = 0) -> str:
        """Make sure that a worker is gone; gives how its process `of` ended."""
        processes, lines = self._processes[worker], self._lines[worker]
        self._processes[worker], self._lines[worker] = [], []
        for line in lines:
            line.close()
        if not processes:
            return "gone"
        try:
            code = processes[of].wait(0.2)
        except subprocess.TimeoutExpired:
            processes[of].kill()
            code = processes[of].wait()
        for process in processes:
            process.kill()
            process.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Kill all processes: they hold nothing that is not sent."""
        for process in (one for group in self._processes for one in group):
            process.kill()
        for worker in range(len(self._processes)):
            self._end(worker)


def _for_worker(scorer: Scorer, device: str, ranks: int) -> Scorer:
    """The scorer that each of a worker's processes makes for itself."""
    found = Scorer(**moved(scorer, device_within(device)))
    found.source = replace(found.source, divided=ranks > 1)
    return found


def _rendezvous(ranks: int) -> dict[str, str]:
    """Where the ranks of a new group find each other, as torch.distributed reads it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


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
    """Threads of each worker: the processors to use divided, or fewer where OMP_NUM_THREADS says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    each = max(usable_processors() // workers, 1)
    return min(each, int(asked)) if asked.isdigit() and int(asked) else each
