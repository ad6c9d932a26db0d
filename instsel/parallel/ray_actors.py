"""Workers as Ray actors, on the nodes that Ray chooses."""

from __future__ import annotations

import os
import pickle
import socket
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from instsel.engine.scorer import Scorer
from instsel.error_text import first_line
from instsel.kernels.float_products import VARIABLE, float_product
from instsel.parallel.moved_scorer import moved
from instsel.parallel.tasks import Task, TaskExecutor, pack_error
from instsel.parallel.worker_backend import Died, Done, Event, Ready, Refused, WorkerInfo


class RayWorker:
    """The actor: an executor of tasks in a process of Ray's."""

    def __init__(self, packed: bytes, threads: int, silent: bool, seen: str | None, library: str) -> None:
        self._packed, self._threads, self._silent, self._seen = packed, threads, silent, seen
        self._library = library
        self._executor: TaskExecutor | None = None

    def load(self) -> tuple[str, Any]:
        """Load the model: "ready" and what the worker is, or "refused" and the error."""
        import torch

        from instsel.parallel.worker_backend import worker_info

        began = time.monotonic()
        if self._silent:
            warnings.simplefilter("ignore")  # the first worker says what all would say
        torch.set_num_threads(self._threads)
        os.environ[VARIABLE] = self._library  # the driver's, whatever processor this node has
        try:
            scorer = Scorer(**pickle.loads(self._packed))
            sees_disk = self._seen is not None and os.path.exists(self._seen)
            info = asdict(worker_info(scorer, time.monotonic() - began, sees_disk))
        except Exception as error:
            return "refused", (socket.gethostname(), pack_error(error))
        self._executor = TaskExecutor(scorer)
        return "ready", info

    def keep(self, key: str, packed: bytes) -> None:
        """See `TaskExecutor.keep`."""
        assert self._executor is not None
        self._executor.keep(key, packed)

    def forget(self, keys: list[str]) -> None:
        """See `TaskExecutor.forget`."""
        assert self._executor is not None
        self._executor.forget(keys)

    def execute(self, task: Task) -> bytes:
        """See `TaskExecutor.execute`."""
        assert self._executor is not None
        return self._executor.execute(task)


class RayActors:
    """So many actors with so many processors and GPUs each.

    An actor that dies, with its node or alone, is replaced by a new one, which Ray places where there is room: that
    may be never, and then the others go on. Ray's own restarts are off, so that nothing is done twice unnoticed.
    """

    def __init__(
        self, ray: Any, scorer: Scorer, count: int, *, num_cpus: float, num_gpus: float, seen: str | None = None
    ) -> None:
        self._ray, self._seen = ray, seen
        self.places = [f"Ray actor {number}" for number in range(count)]
        self._packed = pickle.dumps(moved(scorer, "cuda" if num_gpus else "cpu"))
        self._threads = max(int(num_cpus), 1)
        self._actor_class = ray.remote(RayWorker).options(
            num_cpus=num_cpus, num_gpus=num_gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        self._actors: list[Any] = [None] * count
        self._sent: list[set[str]] = [set() for _ in range(count)]
        self._pending: dict[Any, tuple[int, str]] = {}  # results to come: whose, and of what
        self._stored: dict[str, Any] = {}  # what tasks share, once in Ray's store

    def start(self, worker: int) -> None:
        """Ask Ray for an actor; see `WorkerBackend`."""
        self._actors[worker] = actor = self._actor_class.remote(
            self._packed, self._threads, worker > 0, self._seen, float_product()
        )
        self._sent[worker] = set()
        self._pending[actor.load.remote()] = worker, "load"

    def send(self, worker: int, task: Task, shared: Mapping[str, bytes]) -> None:
        """Send a task; see `WorkerBackend`."""
        actor = self._actors[worker]
        for key in task.uses:
            if key not in self._stored:
                self._stored[key] = self._ray.put(shared[key])
            if key not in self._sent[worker]:
                actor.keep.remote(key, self._stored[key])
                self._sent[worker].add(key)
        self._pending[actor.execute.remote(task)] = worker, "task"

    def forget(self, keys: Iterable[str]) -> None:
        """Tell all actors; see `WorkerBackend`."""
        keys = list(keys)
        for key in keys:
            self._stored.pop(key, None)
        for worker, sent in enumerate(self._sent):
            if sent & set(keys):
                self._actors[worker].forget.remote(keys)
                sent -= set(keys)

    def events(self, timeout: float) -> list[Event]:
        """What the actors have answered; see `WorkerBackend`."""
        if not self._pending:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=timeout)
        if ready:
            ready, _ = self._ray.wait(list(self._pending), num_returns=len(self._pending), timeout=0)
        return [self._read(result, *self._pending.pop(result)) for result in ready]

    def _read(self, result: Any, worker: int, of: str) -> Event:
        try:
            answer = self._ray.get(result)
        except self._ray.exceptions.RayError as error:  # of the actor, its node, or the result on a node that left
            self._kill(worker)
            return Died(worker, first_line(error))
        if of == "task":
            return Done(worker, answer)
        word, payload = answer
        if word == "ready":
            self.places[worker] = f"Ray node {payload['host']}"
            return Ready(worker, WorkerInfo(**payload))
        host, packed = payload
        refusal = pickle.loads(packed)[1]
        known = type(refusal) is ValueError
        return Refused(worker, ValueError(f"{refusal} (the worker on {host})") if known else refusal)

    def _kill(self, worker: int) -> None:
        actor, self._actors[worker] = self._actors[worker], None
        if actor is not None:
            self._ray.kill(actor)

    def stop(self, worker: int) -> None:
        """End an actor; see `WorkerBackend`."""
        self._pending = {result: whose for result, whose in self._pending.items() if whose[0] != worker}
        self._kill(worker)

    def close(self) -> None:
        """End all actors."""
        if self._ray.is_initialized():
            for worker in range(len(self._actors)):
                self.stop(worker)
        self._stored.clear()
