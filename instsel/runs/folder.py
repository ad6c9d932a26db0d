"""Run folders: a long job's results in shards that are whole or absent, so that the same command continues it.

manifest.json                        what the run is made of, its state, its rows by status
rows-DIGEST.arrow                    the input's rows as they came
shards/STAGE-NNNNN-DIGEST.parquet    results; DIGEST begins the SHA-256 of the file
columns/                             arrays that the process at work has mapped; copies of what shards hold
damaged/                             files whose content no longer matches their digest
scores.parquet or scores.jsonl       the merged result, the original columns first
progress.json                        which stage runs, how far it is, and what workers are doing
report.html                          the page that `instsel report` writes here if it is told no other place
next/                                the run that --overwrite makes, all of the above, until it is whole
lock                                 who writes the folder now
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from instsel.runs.durable_files import digest_file, durable_file, remove_unfinished
from instsel.runs.errors import disk_error
from instsel.runs.interrupts import Interrupts
from instsel.runs.lock import RunLock
from instsel.runs.manifest import (
    FORMAT,
    OtherSettingsError,
    differing_fields,
    read_manifest,
    settings_digest,
    write_manifest,
)
from instsel.runs.manifest_shape import Manifest
from instsel.runs.overwriting import check_place, discard, take_place
from instsel.runs.row_store import Batch, RowStore, write_rows
from instsel.runs.run_files import (
    COLUMNS,
    DAMAGED,
    DAMAGED_MANIFEST,
    LOCK,
    MANIFEST,
    NEXT,
    RESULTS,
    ROWS_NAME,
    SHARDS,
    remove_files,
)
from instsel.runs.shards import DIGEST_CHARACTERS, PackedShard, ShardedStage, ShardFolder


class RunFolder:
    """One run on the disk, locked for this process from `open` to `close`.

    `settings` are the fields that decide the numbers: a folder with other settings is refused. `about` is what else
    the manifest says; its "environment" is compared with the one of an earlier start, for `environment_changes`.
    `overwrite` makes the run anew in the folder `next` of the old one, whose place it takes in `finish`. `inputs` are
    the files that the command reads: none may lie in the folder.

    `home` is the folder that was named, `path` where the run's files are written.

    Raises:
        ValueError: the folder holds another run (naming the fields that differ) or other files, or cannot be written.
        FolderInUseError: another living process writes it.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, object],
        about: Mapping[str, object],
        *,
        overwrite: bool = False,
        inputs: Sequence[Path] = (),
        interrupts: Interrupts | None = None,
    ) -> None:
        self.path = self.home = path
        self.interrupts = interrupts or Interrupts()
        self._settings: dict[str, object] = json.loads(json.dumps({"format": FORMAT, **settings}))
        self.damaged: list[str] = []
        self._lock = RunLock(path)
        try:
            if path.is_dir():  # refused before anything is made, the lock included
                check_place(path, self.name, overwrite, inputs)
            path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            check_place(path, self.name, overwrite, inputs)
            self._open(about, overwrite)
        except OSError as error:
            self._lock.release()
            raise ValueError(f"output folder {self.name} cannot be written: {error.strerror or error}") from error
        except BaseException:
            self._lock.release()
            raise

    @property
    def name(self) -> str:
        """What the run's folder is called in messages."""
        return str(self.home)

    def _open(self, about: Mapping[str, object], overwrite: bool) -> None:
        remove_unfinished(self.home)
        taken = take_place(self.home)
        found, damaged = read_manifest(self.home)
        fields = [] if found is None else differing_fields(found, self._settings)
        if taken and not fields:
            overwrite = False  # it is what the stopped command was making
        if found is not None and overwrite and self._has_results():
            found = self._open_next()
        elif fields and self._has_results():
            raise OtherSettingsError(self.name, fields)
        elif overwrite or fields:
            self._remove_rows()
            found = None
        if damaged or (found is None and self._has_results()):
            self._set_aside_result(damaged)
        manifest = {**self._settings, "created": _now(), **(found or {}), **about}
        self.manifest = cast(Manifest, manifest)
        now = self.manifest.get("environment", {})
        self.environment_changes = differing_fields((found or {}).get("environment", now), now)
        if self.manifest.get("state") != "finished":
            self.save(state="running")
        self.shards = self._shards()
        self.shards.prepare()

    def _open_next(self) -> Manifest | None:
        """Go on with the run of `next`, or begin it where there is none of these settings; gives its manifest."""
        found, _ = read_manifest(self.home / NEXT)
        if found is None or differing_fields(found, self._settings):
            discard(self.home)
            found = None
        self.path = self.home / NEXT
        self.path.mkdir(exist_ok=True)
        remove_unfinished(self.path)
        return found

    def _shards(self) -> ShardFolder:
        return ShardFolder(
            self.path / SHARDS, self.path / DAMAGED, self.path / COLUMNS, settings_digest(self._settings)
        )

    def _has_results(self) -> bool:
        return any((self.path / SHARDS).glob("*.parquet")) or any((self.path / name).exists() for name in RESULTS)

    def _remove_rows(self) -> None:
        """Remove the rows of another input, of which nothing was computed."""
        for path in self.path.glob("rows-*.arrow"):
            if ROWS_NAME.fullmatch(path.name) and path.is_file():
                path.unlink()
                self.removed(path)

    def _set_aside_result(self, damaged: bool) -> None:
        """Set aside a manifest that cannot be read and what was merged under it; shards say what they are of."""
        if damaged:
            os.replace(self.path / MANIFEST, self.path / DAMAGED_MANIFEST)
            self.damaged.append(MANIFEST)
        for name in RESULTS:
            if (self.path / name).is_file():
                self._set_aside(self.path / name)

    def save(self, **fields: object) -> None:
        """Set fields of the manifest and write it."""
        self.manifest = cast(Manifest, {**self.manifest, **fields, "updated": _now()})
        with self.explained():
            write_manifest(self.path, self.manifest)
            self.written(self.path / MANIFEST)

    def finish(self, **fields: object) -> None:
        """Write the manifest over the result; a run that overwrites another takes its place."""
        self.save(state="finished", **fields)
        if self.path != self.home:
            with self.interrupts.held(), self.explained():
                self.shards.clear_scratch()
                take_place(self.home)
                self.path = self.home
                self.shards = self._shards()

    def written(self, path: Path) -> None:
        """Called for every file of the folder once it is whole under its name."""

    def removed(self, path: Path) -> None:
        """Called for every file of the folder that is not there any more."""

    def close(self) -> None:
        """Give up the lock; a run of which nothing was computed leaves no file."""
        self.shards.clear_scratch()
        kept = any((self.path / name).exists() for name in (DAMAGED, NEXT))
        if self.path.is_dir() and not self._has_results() and not kept:
            remove_files(self.path, keep=(LOCK,))
            if self.path == self.home:
                self._lock.remove()
            with contextlib.suppress(OSError):
                self.path.rmdir()
        self._lock.release()

    def is_finished(self, result: str) -> bool:
        """True if the run is complete and its result file is there and whole."""
        output = self.manifest.get("output") or {}
        path = self.path / result
        if self.manifest.get("state") != "finished" or output.get("name") != result or not path.is_file():
            return False
        if path.stat().st_size == output.get("bytes") and digest_file(path) == output.get("digest"):
            return True
        self._set_aside(path)
        return False

    def rows(self, read: Callable[[], Iterable[Batch]]) -> RowStore:
        """The input's rows: those kept in the folder, or else those that `read` gives, which are kept first."""
        kept = self.kept_rows()
        if kept is not None:
            return kept
        written: tuple[int, list[str]] = (0, [])
        name = ""

        def name_of(digest: str) -> str:
            nonlocal name
            name = f"rows-{digest[:DIGEST_CHARACTERS]}.arrow"
            return name

        with self.explained():
            with durable_file(self.path, name_of) as file:
                written = write_rows(file, read())
            self.written(self.path / name)
        self.save(rows=written[0], columns=written[1])
        return RowStore(self.path / name)

    def kept_rows(self) -> RowStore | None:
        """The rows kept in the folder, if they are there and whole."""
        for path in self.path.glob("rows-*.arrow"):
            match = ROWS_NAME.fullmatch(path.name)
            if match is None:
                continue
            if "columns" in self.manifest and path.is_file() and digest_file(path).startswith(match["digest"]):
                return RowStore(path)
            self._set_aside(path)
        return None

    def missing(self, stage: ShardedStage) -> list[range]:
        """The rows of a stage that are to be computed; shards that are damaged are set aside."""
        with self.explained():
            before = {path.name for path in (self.path / DAMAGED).glob("*")}
            whole = self.shards.whole(stage)
            self.damaged += sorted({path.name for path in (self.path / DAMAGED).glob("*")} - before)
        return stage.missing(whole)

    def write(self, stage: ShardedStage, rows: range, shard: PackedShard) -> None:
        """Write the shard of these rows; a signal is noticed when it is whole."""
        with self.interrupts.held(), self.explained():
            self.written(self.shards.write(stage, rows.start, shard))

    def _set_aside(self, path: Path) -> None:
        with self.explained():
            (self.path / DAMAGED).mkdir(exist_ok=True)
            os.replace(path, self.path / DAMAGED / path.name)
            self.removed(path)
        self.damaged.append(path.name)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Errors of the disk as RunError."""
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.path, self.name) from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
