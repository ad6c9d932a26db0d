"""The driver's half of a pool: which worker does which task, and what becomes of the tasks of those that die."""

from __future__ import annotations

import collections
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from instsel.parallel.crew import Crew, Died, Done, Hello, Ready, Refused, WorkersError
from instsel.parallel.tasks import Task, open_answer

DEATHS_OF_A_TASK = 3  # after so many its rows are given up
DEATHS_AT_START = 3  # of one worker in a row, after which its place stays empty
_TURN = 0.5  # seconds between looks at the clock


@dataclass(slots=True)
class Place:
    """One worker's place and what has been done there."""

    name: str
    hello: Hello | None = None
    ready: bool = False
    gone: bool = False
    task: Task | None = None
    abandoned: bool = False  # nobody waits for its task any more
    failed_starts: int = 0
    deaths: int = 0
    tasks: int = 0
    rows: int = 0
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """For a status page."""
        known = {} if self.hello is None else {"host": self.hello.host, "pid": self.hello.pid}
        state = "gone" if self.gone else "starting" if not self.ready else "idle"
        figures = {name: getattr(self, name) for name in ("deaths", "tasks", "rows", "seconds")}
        return {"place": self.name, **known, **figures, "state": self.task.label if self.task else state}


class Schedule:
    """Runs tasks on a crew, one a worker at a time; one caller at a time."""

    def __init__(self, crew: Crew, *, patience: float) -> None:
        self.crew, self.patience = crew, patience
        self.places = [Place(name) for name in crew.places]
        self.given_up: list[str] = []  # labels of the tasks that killed too many workers
        self._last_death = "none died"
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start all workers and wait until every one has its model; raises what a worker could not do."""
        for worker in range(len(self.places)):
            self.crew.start(worker)
        deadline = time.monotonic() + self.patience
        while not all(place.ready for place in self.places):
            self._hear()
            if any(place.gone for place in self.places):
                raise WorkersError(f"a worker died {DEATHS_AT_START} times as it started: {self._last_death}")
            if time.monotonic() > deadline:
                late = [place.name for place in self.places if not place.ready]
                raise WorkersError(
                    f"{len(late)} of {len(self.places)} workers did not start within {self.patience:.0f} seconds, "
                    f"the first of them on {late[0]}"
                )

    def run(self, tasks: Iterator[Task], shared: Mapping[str, bytes]) -> Generator[tuple[Task, Any, float], None, None]:
        """Each task with its value and its worker's seconds, as they come; raises the first error that a task meets.

        Tasks are taken from `tasks` as workers want them, and as many again are kept ready. A task whose worker dies
        is done again elsewhere; when it has killed three workers it is done without forwards.
        """
        with self._lock:
            try:
                yield from self._run(tasks, shared)
            finally:  # an error or an interrupt ended the run: what is still under way is for nobody
                for place in self.places:
                    place.abandoned = place.task is not None

    def _run(self, tasks: Iterator[Task], shared: Mapping[str, bytes]) -> Iterator[tuple[Task, Any, float]]:
        waiting: collections.deque[Task] = collections.deque()
        deaths: collections.Counter[int] = collections.Counter()
        heard = time.monotonic()
        more = True
        while True:
            self._hand_out(waiting, shared)
            # While workers work: the next tasks, so that none waits for the driver to read its rows.
            idle = any(place.ready and place.task is None for place in self.places)
            if more and len(waiting) < len(self.places):
                task = next(tasks, None)
                more = task is not None
                if task is not None:
                    waiting.append(task)
            if not more and not waiting and all(place.task is None or place.abandoned for place in self.places):
                return
            busy_driver = more and (idle or len(waiting) < len(self.places))
            done, lost = self._hear(0.0 if busy_driver else _TURN)
            if done or lost or any(place.ready for place in self.places):
                heard = time.monotonic()
            for task, reason in lost:
                deaths[task.number] += 1
                waiting.appendleft(self._again(task, deaths[task.number], reason))
            self._hand_out(waiting, shared)
            for place, task, answer in done:
                try:
                    value, seconds = open_answer(answer)
                except Exception as error:
                    error.where = task.label  # type: ignore[attr-defined]
                    raise
                place.seconds += seconds
                yield task, value, seconds
            if all(place.gone for place in self.places) or time.monotonic() - heard > self.patience:
                raise WorkersError(f"no worker is left, and none could be started again ({self._last_death})")

    def _hand_out(self, waiting: collections.deque[Task], shared: Mapping[str, bytes]) -> None:
        for worker, place in enumerate(self.places):
            if waiting and place.ready and place.task is None:
                place.task = waiting.popleft()
                self.crew.send(worker, place.task, shared)

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

    def _hear(self, timeout: float = _TURN) -> tuple[list[tuple[Place, Task, bytes]], list[tuple[Task, str]]]:
        """Tasks that are done, with their answers, and tasks whose workers died; the dead are replaced."""
        done, lost = [], []
        for event in self.crew.events(timeout):
            place = self.places[event.worker]
            if isinstance(event, Ready):
                place.hello, place.ready, place.failed_starts = event.hello, True, 0
            elif isinstance(event, Refused):
                raise event.error
            elif place.abandoned and isinstance(event, Done):
                place.task, place.abandoned = None, False
            elif isinstance(event, Done) and place.task is not None:
                done.append((place, place.task, event.answer))
                place.tasks, place.rows = place.tasks + 1, place.rows + place.task.rows
                place.task = None
            elif isinstance(event, Died):
                if place.task is not None and not place.abandoned:
                    lost.append((place.task, event.reason))
                place.deaths += 1
                self._last_death = f"{place.name}: {event.reason}"
                place.failed_starts = 0 if place.ready else place.failed_starts + 1
                place.task, place.ready, place.abandoned = None, False, False
                if place.failed_starts < DEATHS_AT_START:
                    self.crew.start(event.worker)
                    continue
                place.gone = True
        return done, lost

    def told(self) -> list[dict[str, Any]]:
        """What each place has done."""
        return [place.told() for place in self.places]
