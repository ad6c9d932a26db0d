"""The driver's half of a pool: which worker does which task, and what becomes of the tasks of those that die."""

from __future__ import annotations

import collections
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from instsel.parallel.tasks import Task, open_answer
from instsel.parallel.worker_backend import Died, Done, Ready, Refused, WorkerBackend, WorkerInfo, WorkersError
from instsel.runs.run_status import WorkerStatus

DEATHS_OF_A_TASK = 3  # after so many its rows are given up
DEATHS_AT_START = 3  # of one worker in a row, after which its slot stays empty
_TURN = 0.5  # seconds between looks at the clock


@dataclass(slots=True)
class WorkerSlot:
    """One worker's slot and what has been done there."""

    name: str
    info: WorkerInfo | None = None
    ready: bool = False
    gone: bool = False
    task: Task | None = None
    abandoned: bool = False  # nobody waits for its task any more
    failed_starts: int = 0
    deaths: int = 0
    tasks: int = 0
    rows: int = 0
    seconds: float = 0.0

    def status(self) -> WorkerStatus:
        """For a status page."""
        state = "gone" if self.gone else "starting" if not self.ready else "idle"
        status: WorkerStatus = {
            "place": self.name,
            "state": self.task.label if self.task else state,
            "deaths": self.deaths,
            "tasks": self.tasks,
            "rows": self.rows,
            "seconds": self.seconds,
        }
        if self.info is not None:
            status |= {"host": self.info.host, "pid": self.info.pid}
        return status


class Scheduler:
    """Runs tasks on a backend's workers, one a worker at a time; one caller at a time."""

    def __init__(self, backend: WorkerBackend, *, patience: float) -> None:
        self.backend, self.patience = backend, patience
        self.slots = [WorkerSlot(name) for name in backend.places]
        self.given_up: list[str] = []  # labels of the tasks that killed too many workers
        self._last_death = "none died"
        self._lock = threading.Lock()
        self._caller: int | None = None  # the thread whose tasks are done now

    def start(self) -> None:
        """Start all workers and wait until every one has its model; raises what a worker could not do."""
        for worker in range(len(self.slots)):
            self.backend.start(worker)
        deadline = time.monotonic() + self.patience
        while not all(slot.ready for slot in self.slots):
            self._hear()
            if any(slot.gone for slot in self.slots):
                raise WorkersError(f"a worker died {DEATHS_AT_START} times as it started: {self._last_death}")
            if time.monotonic() > deadline:
                late = [slot.name for slot in self.slots if not slot.ready]
                raise WorkersError(
                    f"{len(late)} of {len(self.slots)} workers did not start within {self.patience:.0f} seconds, "
                    f"the first of them on {late[0]}"
                )

    def run_tasks(
        self, tasks: Iterator[Task], shared: Mapping[str, bytes]
    ) -> Generator[tuple[Task, Any, float], None, None]:
        """Each task with its value and its worker's seconds, as they come; raises the first error that a task meets.

        Tasks are taken from `tasks` as workers want them, and as many again are kept ready. A task whose worker dies
        is done again elsewhere; when it has killed three workers it is done without forwards. RuntimeError for a thread
        whose own earlier call is under way, which it would wait for without end.
        """
        if self._caller == threading.get_ident():
            raise RuntimeError(
                "scorer: this pool of workers is at work for the same thread: do not call it in progress"
            )
        with self._lock:
            self._caller = threading.get_ident()
            try:
                yield from self._run_tasks(tasks, shared)
            finally:  # an error or an interrupt ended the run: what is still under way is for nobody
                self._caller = None
                for slot in self.slots:
                    slot.abandoned = slot.task is not None

    def _run_tasks(self, tasks: Iterator[Task], shared: Mapping[str, bytes]) -> Iterator[tuple[Task, Any, float]]:
        waiting: collections.deque[Task] = collections.deque()
        deaths: collections.Counter[int] = collections.Counter()
        heard = time.monotonic()
        more = True
        while True:
            self._hand_out(waiting, shared)
            # While workers work: the next tasks, so that none waits for the driver to read its rows.
            idle = any(slot.ready and slot.task is None for slot in self.slots)
            if more and len(waiting) < len(self.slots):
                task = next(tasks, None)
                more = task is not None
                if task is not None:
                    waiting.append(task)
            if not more and not waiting and all(slot.task is None or slot.abandoned for slot in self.slots):
                return
            busy_driver = more and (idle or len(waiting) < len(self.slots))
            done, lost = self._hear(0.0 if busy_driver else _TURN)
            if done or lost or any(slot.ready for slot in self.slots):
                heard = time.monotonic()
            for task, reason in lost:
                deaths[task.number] += 1
                waiting.appendleft(self._again(task, deaths[task.number], reason))
            self._hand_out(waiting, shared)
            for slot, task, answer in done:
                try:
                    value, seconds = open_answer(answer)
                except Exception as error:
                    error.where = task.label  # type: ignore[attr-defined]
                    raise
                slot.seconds += seconds
                yield task, value, seconds
            if all(slot.gone for slot in self.slots) or time.monotonic() - heard > self.patience:
                raise WorkersError(f"no worker is left, and none could be started again ({self._last_death})")

    def _hand_out(self, waiting: collections.deque[Task], shared: Mapping[str, bytes]) -> None:
        for worker, slot in enumerate(self.slots):
            if waiting and slot.ready and slot.task is None:
                slot.task = waiting.popleft()
                self.backend.send(worker, slot.task, shared)

    def _again(self, task: Task, deaths: int, reason: str) -> Task:
        """The task as it is tried next."""
        if task.failing:
            raise WorkersError(f"{task.label}: the worker died ({reason}) even when nothing was forwarded")
        if deaths < DEATHS_OF_A_TASK:
            return task
        warnings.warn(
            f"{task.label}: {deaths} workers died of it, the last one {reason}; its rows get the status worker_died",
            stacklevel=2,
        )
        self.given_up.append(task.label)
        return replace(task, failing=True)

    def _hear(self, timeout: float = _TURN) -> tuple[list[tuple[WorkerSlot, Task, bytes]], list[tuple[Task, str]]]:
        """Tasks that are done, with their answers, and tasks whose workers died; the dead are replaced."""
        done, lost = [], []
        for event in self.backend.events(timeout):
            slot = self.slots[event.worker]
            if isinstance(event, Ready):
                slot.info, slot.ready, slot.failed_starts = event.info, True, 0
            elif isinstance(event, Refused):
                raise event.error
            elif slot.abandoned and isinstance(event, Done):
                slot.task, slot.abandoned = None, False
            elif isinstance(event, Done) and slot.task is not None:
                done.append((slot, slot.task, event.answer))
                slot.tasks, slot.rows = slot.tasks + 1, slot.rows + slot.task.rows
                slot.task = None
            elif isinstance(event, Died):
                if slot.task is not None and not slot.abandoned:
                    lost.append((slot.task, event.reason))
                slot.deaths += 1
                self._last_death = f"{slot.name}: {event.reason}"
                slot.failed_starts = 0 if slot.ready else slot.failed_starts + 1
                slot.task, slot.ready, slot.abandoned = None, False, False
                if slot.failed_starts < DEATHS_AT_START:
                    self.backend.start(event.worker)
                    continue
                slot.gone = True
        return done, lost

    def status(self) -> list[WorkerStatus]:
        """What each slot has done."""
        return [slot.status() for slot in self.slots]
