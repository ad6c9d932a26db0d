"""What a run's workers have done, noted beside the shards for whoever looks at the run from outside."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOTES = "workers.json"
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
    """The workers as last noted; none where there are no notes."""
    try:
        return list(json.loads((folder / NOTES).read_text(encoding="utf-8"))["workers"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
