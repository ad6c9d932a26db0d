"""The run that --overwrite makes, in the folder `next` of the old one, and how it takes the old one's place.

Until the manifest in `next` says that its run is finished, the folder is the old run; from then on it is the new one:
readers look in `next` first, and whoever opens the folder to write goes on with the steps that a killed process left.
The shards' folder moves first and the manifest last, so that what is still in `next` says which steps are to come.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from instsel.runs.durable_files import TEMPORARY, sync_directory
from instsel.runs.lock import is_lock
from instsel.runs.manifest import read_manifest
from instsel.runs.run_files import COLUMNS, LOCK, MANIFEST, NEXT, SHARDS, remove_files, strangers, within
from instsel.runs.shards import says_itself

_SHOWN = 3


def check_place(folder: Path, name: str, overwrite: bool, inputs: Sequence[Path]) -> None:
    """ValueError where a folder, called `name`, must not be written to; nothing is changed.

    It must be empty, or hold a run: one that its manifest says, or shards that say it where the manifest is damaged or
    gone. No input may lie in it. To be overwritten it must have its manifest, and nothing that no run wrote.
    """
    found, damaged = read_manifest(folder)
    others = strangers(folder) if found is None or overwrite else []
    held = [path.name for path in sorted(folder.iterdir()) if not _means_nothing(path)]
    if found is None and held and (others or not says_itself(folder)):
        raise ValueError(f"{name} is not empty and not a run folder (it holds {_listed(others or held)})")
    if found is None and held and overwrite:
        raise ValueError(
            f"{name} is not overwritten: its {MANIFEST} is {'damaged' if damaged else 'gone'}. "
            "Name another --output, or remove it yourself"
        )
    if others:
        raise ValueError(
            f"{name} is not overwritten: it holds what no run wrote ({_listed(others)}). "
            "Move that away, or name another --output"
        )
    if own := within(folder, inputs):
        raise ValueError(f"input {own[0]} lies in the output folder {name}: name another --output")


def _means_nothing(path: Path) -> bool:
    """What a process leaves that was killed before it wrote a manifest."""
    if path.name == LOCK:
        return is_lock(path)
    if TEMPORARY.fullmatch(path.name):
        return True
    return path.name == SHARDS and path.is_dir() and not any(path.iterdir())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def is_whole(new: Path) -> bool:
    """Whether a folder `next` holds a finished run, which is then the folder's."""
    found, _ = read_manifest(new)
    return found is not None and found.get("state") == "finished"


def take_place(folder: Path) -> bool:
    """Put a finished run of `next` in the old one's place, from wherever that was stopped; False if there is none.

    A `next` without a manifest is what was left of one that has taken its place, or had not begun; it is removed.
    """
    new = folder / NEXT
    if not os.path.lexists(new / MANIFEST):
        discard(folder)
    if not is_whole(new):
        return False
    if (new / SHARDS).is_dir():  # nothing has moved yet: what lies outside is the old run's
        remove_files(folder, keep=(MANIFEST, LOCK))
        os.rename(new / SHARDS, folder / SHARDS)
        sync_directory(folder)
    for path in sorted(new.iterdir()):
        if path.name not in (MANIFEST, LOCK, COLUMNS):
            os.rename(path, folder / path.name)
    sync_directory(folder)
    os.rename(new / MANIFEST, folder / MANIFEST)
    sync_directory(folder)
    discard(folder)
    return True


def discard(folder: Path) -> None:
    """Remove the run of `next`, if there is one."""
    new = folder / NEXT
    if new.is_dir():
        remove_files(new)
        with contextlib.suppress(OSError):
            new.rmdir()
