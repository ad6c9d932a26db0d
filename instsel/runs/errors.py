"""Why a run cannot go on."""

from __future__ import annotations

from pathlib import Path


class RunError(Exception):
    """A run cannot go on for a reason outside its input: the disk, the folder, too many failed rows."""


def disk_error(error: OSError, path: Path, name: str) -> RunError:
    """What an error of the disk is for the run in `path`, which is called `name` in messages."""
    if not path.is_dir():
        return RunError(f"run folder {name} was removed while the run wrote to it")
    return RunError(
        f"cannot write to run folder {name}: {error.strerror or error}; what is whole is kept, "
        "and the same command continues"
    )
