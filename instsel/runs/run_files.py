"""Which files of a folder are a run's, by their names: whatever no command wrote, none removes or replaces."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from instsel.runs.durable_files import TEMPORARY
from instsel.runs.regular_files import read_regular

MANIFEST, DAMAGED_MANIFEST = "manifest.json", "manifest.damaged.json"
LOCK, RUN_STATUS, PAGE = "lock", "progress.json", "report.html"
OLD_WORKER_STATUS = "workers.json"  # of earlier versions
SHARDS, DAMAGED, COLUMNS = "shards", "damaged", "columns"
NEXT = "next"  # the run that --overwrite makes, until it is whole
RESULTS = ("scores.parquet", "scores.jsonl", "selected.parquet", "selected.jsonl", "neighbors.npz")
ROWS_NAME = re.compile(r"rows-(?P<digest>[0-9a-f]{16})\.arrow")
STAGE_NAME = re.compile(r"[a-z_]+")
SHARD_NAME = re.compile(rf"(?P<stage>{STAGE_NAME.pattern})-(?P<number>\d{{5,}})-(?P<digest>[0-9a-f]{{16}})\.parquet")
ARRAY_NAME = re.compile(rf"{STAGE_NAME.pattern}\.[^/]+\.npy")
# What every page of a report has near its beginning, and no other page: the policy that lets its own script run.
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-"

_TOP = "|".join(map(re.escape, (MANIFEST, DAMAGED_MANIFEST, LOCK, RUN_STATUS, OLD_WORKER_STATUS, PAGE, *RESULTS)))
_KEPT = f"{ROWS_NAME.pattern.replace('?P<digest>', '')}|{TEMPORARY.pattern}"
_SHARD = re.sub(r"\?P<\w+>", "", SHARD_NAME.pattern)
_OURS = re.compile(
    rf"({NEXT}/)?({_TOP}|{_KEPT}|{SHARDS}/({_SHARD}|{TEMPORARY.pattern})|{DAMAGED}/({_TOP}|{_KEPT}|{_SHARD})"
    rf"|{COLUMNS}/{ARRAY_NAME.pattern})"
)
_FOLDERS = re.compile(rf"{NEXT}|({NEXT}/)?({SHARDS}|{DAMAGED}|{COLUMNS})")


def is_ours(name: str) -> bool:
    """Whether a name relative to a run folder, with slashes, is one that a run gives to its files.

    >>> is_ours("shards/ifd-00000-0123456789abcdef.parquet"), is_ours("shards/mine.parquet"), is_ours("notes.txt")
    (True, False, False)
    """
    return _OURS.fullmatch(name) is not None


def strangers(folder: Path) -> list[str]:
    """What a folder holds that no run wrote: other names, links, what is no regular file, a page of another kind."""
    return sorted(name for name, path in _entries(folder) if path is None)


def remove_files(folder: Path, *, keep: Collection[str] = ()) -> None:
    """Remove a run's files but those at its top named in `keep`, and its folders that are then empty."""
    emptied = {folder / name for name in (SHARDS, DAMAGED, COLUMNS)}
    for name, path in list(_entries(folder)):
        if path is not None and name not in keep and not name.startswith(f"{NEXT}/"):
            path.unlink(missing_ok=True)
    for path in emptied:
        with contextlib.suppress(OSError):
            path.rmdir()


def is_page(path: Path) -> bool:
    """Whether a file is a page that `instsel report` wrote."""
    try:
        return PAGE_POLICY.encode() in read_regular(path, 1 << 14, cut=True)
    except (OSError, ValueError):
        return False


def within(folder: Path, paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that lie in a folder, or are it, links followed."""
    top = resolved(folder)
    return [path for path in paths if top in (found := resolved(path), *found.parents)]


def resolved(path: Path) -> Path:
    """A path with all links followed; one that leads round in a circle stays, where `Path.resolve` is an error."""
    return Path(os.path.realpath(path))


def _entries(folder: Path, above: str = "") -> Iterator[tuple[str, Path | None]]:
    """Names relative to the run folder; with the path of those that are a run's files."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = above + entry.name
        if entry.is_dir(follow_symlinks=False) and _FOLDERS.fullmatch(name):
            yield from _entries(Path(entry.path), f"{name}/")
            continue
        path = Path(entry.path)
        ours = entry.is_file(follow_symlinks=False) and is_ours(name) and (entry.name != PAGE or is_page(path))
        yield name, path if ours else None
