"""What a run is doing, written beside the shards for whoever looks at it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from instsel.records.json_types import JsonMapping, JsonObject
from instsel.runs.manifest_shape import is_count, is_number, is_text
from instsel.runs.regular_files import read_json
from instsel.runs.run_files import RUN_STATUS

_SECONDS = 2.0  # between two writings


@dataclass(frozen=True, slots=True)
class StageStatus:
    """The stage that runs.

    rows    of the stage
    before  rows that were done when the process at work came to it
    done    rows that are done now, with those of slices under way as far as their tokens are through
    began   when the process came to it, and `updated` when this was written, in seconds since 1970
    """

    stage: str
    rows: int
    before: float
    done: float
    began: float
    updated: float

    def seconds_left(self) -> float | None:
        """At the rate so far; None where nothing is known of it yet."""
        done, seconds = self.done - self.before, self.updated - self.began
        return (self.rows - self.done) * seconds / done if done > 0 and seconds > 0 else None


class WorkerStatus(TypedDict, total=False):
    """What one worker of a run has done, and what it is doing."""

    place: str
    host: str
    pid: int
    state: str
    rows: int
    seconds: float
    deaths: int
    tasks: int


class RunStatusFile:
    """Writes what runs to a folder now and then, with what its workers do where it has some.

    Nothing depends on the file, so a full disk is no error here.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._last = folder / RUN_STATUS, 0.0
        self.workers: Callable[[], list[WorkerStatus]] = list
        self._stage: JsonObject = {}

    def begin(self, stage: str, rows: int, done: int) -> None:
        """A stage begins, of which so many rows are done."""
        self._stage = {"stage": stage, "rows": rows, "before": done, "done": done, "began": time.time()}
        self.write(now=True)

    def advance(self, done: float) -> None:
        """So many rows of the stage are done."""
        self._stage["done"] = done
        self.write()

    def write(self, *, now: bool = False) -> None:
        """Write, unless that was done a moment ago."""
        if not now and time.monotonic() - self._last < _SECONDS:
            return
        self._last = time.monotonic()
        unfinished = self.path.with_name(f".unfinished-{os.getpid()}-progress")
        with contextlib.suppress(OSError):
            said = {**self._stage, "updated": time.time(), "workers": self.workers()}
            unfinished.write_text(json.dumps(said))
            os.replace(unfinished, self.path)


def read_run_status(folder: Path) -> tuple[StageStatus | None, list[WorkerStatus]]:
    """The stage that runs and the workers' status as last written; none where no such file says so."""
    try:
        found = read_json(folder / RUN_STATUS)
    except (OSError, ValueError):
        return None, []
    if not isinstance(found, dict):
        return None, []
    workers = found.get("workers")
    known = workers if isinstance(workers, list) and all(map(_is_worker, workers)) else []
    return _stage_status(found), known


def _stage_status(found: JsonMapping) -> StageStatus | None:
    values: dict[str, Any] = {name: found.get(name) for name in StageStatus.__slots__}
    numbers = (values[name] for name in ("before", "done", "began", "updated"))
    if not (is_text(values["stage"]) and is_count(values["rows"]) and all(map(is_number, numbers))):
        return None
    return StageStatus(**values)


def _is_worker(found: object) -> bool:
    if not isinstance(found, dict):
        return False
    numbers = (found.get(name, 0) for name in ("rows", "seconds", "deaths"))
    return "rows" in found and all(map(is_number, numbers))
