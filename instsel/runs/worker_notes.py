"""What a run's workers have done, noted beside the shards for whoever looks at the run from outside."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instsel.runs.manifest_shape import is_number
from instsel.runs.regular_files import read_json
from instsel.runs.run_files import NOTES

_SECONDS = 2.0  # between two notes


class WorkerNotes:
    """Writes `told()` to the folder now and then. Nothing depends on the file, so a full disk is no error here."""

    def __init__(self, folder: Path, told: Callable[[], list[dict[str, Any]]]) -> None:
        self.path, self.told, self._last = folder / NOTES, told, 0.0

    def note(self, *, now: bool = False) -> None:
        """Write, unless that was done a moment ago."""
        if not now and time.monotonic() - self._last < _SECONDS:
            return
        self._last = time.monotonic()
        unfinished = self.path.with_name(f".unfinished-{os.getpid()}-workers")
        with contextlib.suppress(OSError):
            unfinished.write_text(json.dumps({"updated": time.time(), "workers": self.told()}))
            os.replace(unfinished, self.path)


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """The workers as last noted; none where there are no notes, or what is there are none."""
    try:
        found = read_json(folder / NOTES)
    except (OSError, ValueError):
        return []
    workers = found.get("workers") if isinstance(found, dict) else None
    return workers if isinstance(workers, list) and all(map(_is_worker, workers)) else []


def _is_worker(found: Any) -> bool:
    if not isinstance(found, dict):
        return False
    numbers = (found.get(name, 0) for name in ("rows", "seconds", "deaths"))
    return "rows" in found and all(map(is_number, numbers))
