"""What the scheduler asks of a backend of workers, whichever way they run, and what it hears of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from instsel.engine.scorer import Scorer
from instsel.parallel.tasks import Task


class WorkersError(RuntimeError):
    """Workers cannot go on: they do not start, or die even of a task without a forward."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself once its model is loaded."""

    host: str
    pid: int
    device: str  # its kind: cpu, cuda
    dtype: str
    arithmetic: str  # as `CausalModel.arithmetic_by`
    versions: Mapping[str, str]
    seconds: float  # from its first line to the model loaded
    sees_disk: bool = True  # whether it sees the driver's files


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its model."""

    worker: int
    info: WorkerInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker could not load its model, or is not one of ours."""

    worker: int
    error: BaseException


@dataclass(frozen=True, slots=True)
class Done:
    """A worker has done its task; `answer` is for `tasks.open_answer`."""

    worker: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone."""

    worker: int
    reason: str


Event = Ready | Refused | Done | Died


class WorkerBackend(Protocol):
    """Workers by number. Nothing here waits for a worker but `events`, and that for `timeout` seconds at most."""

    places: list[str]  # what each worker runs on, for people

    def start(self, worker: int) -> None:
        """Begin to start a worker, or another in the place of one that is gone; Ready, Refused or Died follows."""

    def send(self, worker: int, task: Task, shared: Mapping[str, bytes]) -> None:
        """Give a ready worker a task; Done or Died follows."""

    def forget(self, keys: Iterable[str]) -> None:
        """No task will share these again."""

    def events(self, timeout: float) -> list[Event]:
        """What has happened, waiting for the first for so many seconds."""

    def stop(self, worker: int) -> None:
        """End a worker at once; nothing is heard of it any more."""

    def close(self) -> None:
        """End all workers."""


def versions() -> dict[str, str]:
    """What must be the same in a worker as here, for numbers to be."""
    import torch
    import transformers

    import instsel

    return {"instsel": instsel.__version__, "transformers": transformers.__version__, "torch": torch.__version__}


def worker_info(scorer: Scorer, seconds: float, sees_disk: bool = True) -> WorkerInfo:
    """What a worker says of itself, its model loaded."""
    import os
    import socket

    model = scorer.model
    dtype = str(model.dtype).removeprefix("torch.")
    return WorkerInfo(
        socket.gethostname(),
        os.getpid(),
        model.device.type,
        dtype,
        model.arithmetic_by(),
        versions(),
        seconds,
        sees_disk,
    )
