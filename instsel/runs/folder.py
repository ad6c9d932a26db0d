"""Run folders: a long job's results in shards that are whole or absent, so that the same command continues it.

manifest.json                        what the run is made of, its state, its rows by status
rows-DIGEST.arrow                    the input's rows as they came
shards/STAGE-NNNNN-DIGEST.parquet    results; DIGEST begins the SHA-256 of the file
columns/                             arrays that the process at work has mapped; copies of what shards hold
damaged/                             files whose content no longer matches their digest
scores.parquet or scores.jsonl       the merged result, the original columns first
workers.json                         what the workers of a run with several are doing
report.html                          the page that `instsel report` writes here if it is told no other place
lock                                 who writes the folder now
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from instsel.runs.durable_files import digest_file, durable_file, remove_unfinished
from instsel.runs.interrupts import Interrupts
from instsel.runs.lock import RunLock
from instsel.runs.manifest import DAMAGED_MANIFEST, FORMAT, MANIFEST, differing_fields, read_manifest, settings_digest
from instsel.runs.row_store import Batch, RowStore, write_rows
from instsel.runs.shards import DIGEST_CHARACTERS, PackedShard, ShardFolder, ShardInfo, Stage, pack_shard
from instsel.runs.worker_notes import NOTES

_ROWS = re.compile(r"rows-(?P<digest>[0-9a-f]{16})\.arrow")
PAGE = "report.html"
_RESULTS = ("scores.parquet", "scores.jsonl", "selected.parquet", "selected.jsonl", "neighbors.npz")

OnStart = Callable[[Stage, range, int], None]  # a shard's rows, and how many rows of the stage are done
OnShard = Callable[[Stage, range, ShardInfo], None]
Spread = Callable[[Iterator[range]], Iterator[tuple[range, PackedShard]]]  # slices to their shards, in any order


class RunError(Exception):
    """A run cannot go on for a reason outside its input: the disk, the folder, too many failed rows."""


class RunFolder:
    """One run on the disk, locked for this process from `open` to `close`.

    `settings` are the fields that decide the numbers: a folder with other settings is refused. `about` is what else
    the manifest says; its "environment" is compared with the one of an earlier start, for `environment_changes`.

    Raises:
        ValueError: the folder holds another run (naming the fields that differ) or other files, or cannot be written.
        FolderInUseError: another living process writes it.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        about: Mapping[str, Any],
        *,
        overwrite: bool = False,
        interrupts: Interrupts | None = None,
    ) -> None:
        self.path = path
        self.interrupts = interrupts or Interrupts()
        self._settings: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **settings}))
        self.damaged: list[str] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(path)
            self._lock.acquire()
        except OSError as error:
            raise ValueError(f"output folder {self.name} cannot be written: {error.strerror or error}") from error
        try:
            self._open(dict(about), overwrite)
        except OSError as error:
            self._lock.release()
            raise ValueError(f"output folder {self.name} cannot be written: {error.strerror or error}") from error
        except BaseException:
            self._lock.release()
            raise

    @property
    def name(self) -> str:
        """What the run's folder is called in messages."""
        return str(self.path)

    @classmethod
    def reopen(cls, path: Path, manifest: Mapping[str, Any], *, interrupts: Interrupts | None = None) -> RunFolder:
        """A run folder with the settings that its own manifest states."""
        settings = {name: manifest.get(name) for name in manifest["compared"]}
        return cls(path, settings, {"environment": manifest.get("environment", {})}, interrupts=interrupts)

    def _open(self, about: dict[str, Any], overwrite: bool) -> None:
        remove_unfinished(self.path)
        found, damaged = read_manifest(self.path)
        if damaged:
            os.replace(self.path / MANIFEST, self.path / DAMAGED_MANIFEST)  # shards know their settings: none are mixed
            self.damaged.append(MANIFEST)
        if found is None and not overwrite and (strangers := self._strangers()):
            raise ValueError(f"{self.name} is not empty and not a run folder (it holds {', '.join(strangers[:3])})")
        fields = [] if found is None else differing_fields(found, self._settings)
        if fields and not overwrite and self._has_results():
            raise ValueError(
                f"{self.name} holds a run with other settings: {'; '.join(fields)}. "
                "Name another --output, or start again with --overwrite"
            )
        if overwrite or fields:
            self._remove_results()
            found = None
        before = {"created": _now(), **(found or {})}
        now = about.get("environment", {})
        self.environment_changes = differing_fields(before.get("environment", now), now)
        self.manifest: dict[str, Any] = {**self._settings, **before, **about}
        self.shards = ShardFolder(
            self.path / "shards", self.path / "damaged", self.path / "columns", settings_digest(self._settings)
        )
        self.shards.prepare()
        if self.manifest.get("state") != "finished":
            self.save(state="running")

    def _has_results(self) -> bool:
        return any((self.path / "shards").glob("*.parquet")) or any((self.path / name).exists() for name in _RESULTS)

    def _strangers(self) -> list[str]:
        ours = {"lock", "shards", "damaged", "columns", DAMAGED_MANIFEST, NOTES, PAGE, *_RESULTS}
        return sorted(p.name for p in self.path.iterdir() if p.name not in ours and not _ROWS.fullmatch(p.name))

    def _remove_results(self) -> None:
        for name in (MANIFEST, DAMAGED_MANIFEST, NOTES, PAGE, *_RESULTS):
            (self.path / name).unlink(missing_ok=True)
        for path in self.path.glob("rows-*.arrow"):
            path.unlink()
        for name in ("shards", "damaged", "columns"):
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)

    def save(self, **fields: Any) -> None:
        """Set fields of the manifest and write it."""
        self.manifest.update(fields, updated=_now())
        with self.explained():
            with durable_file(self.path, MANIFEST) as file:
                file.write(json.dumps(self.manifest, indent=2, ensure_ascii=False).encode("utf-8", "replace"))
            self.written(self.path / MANIFEST)

    def written(self, path: Path) -> None:
        """Called for every file of the folder once it is whole under its name."""

    def close(self) -> None:
        """Give up the lock; a folder in which nothing was computed is left as it was found."""
        self.shards.clear_scratch()
        if not self._has_results() and self.path.is_dir():
            self._remove_results()
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
            match = _ROWS.fullmatch(path.name)
            if match and "columns" in self.manifest and digest_file(path).startswith(match["digest"]):
                return RowStore(path)
            self._set_aside(path)
        return None

    def run(
        self,
        stage: Stage,
        *,
        on_start: OnStart | None = None,
        on_shard: OnShard | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Compute the shards of a stage that are missing or damaged: in order, or as `spread` gives them."""
        with self.explained():
            before = {path.name for path in (self.path / "damaged").glob("*")}
            done = self.shards.whole(stage)
            self.damaged += sorted({path.name for path in (self.path / "damaged").glob("*")} - before)
        slices = stage.slices()
        done_rows = sum(len(slices[number]) for number in done)
        missing = [rows for number, rows in enumerate(slices) if number not in done]
        computed = self._in_order(stage, missing) if spread is None else spread(self._checked(missing))
        begun = missing[0] if missing else range(0)
        while missing:
            self.interrupts.check()
            if on_start is not None:
                on_start(stage, missing[0] if spread is None else begun, done_rows)
            try:
                rows, shard = next(computed)
            except (ValueError, TypeError, ImportError, OSError, MemoryError):
                raise  # of the input, the settings or the machine: the text says which
            except Exception as error:  # of a kernel, a driver, a library, somebody's own method
                reason = next(iter(str(error).strip().splitlines()), "")
                where = f"{stage.name}, rows {missing[0].start} to {missing[0].stop - 1}"
                raise RunError(
                    f"{getattr(error, 'where', where)}: {type(error).__name__}: {reason}; "
                    "what is whole is kept, and the same command continues"
                ) from error
            with self.interrupts.held(), self.explained():
                self.written(self.shards.write(stage, rows.start // stage.shard_rows, shard))
            missing.remove(rows)
            done_rows += len(rows)
            begun = rows
            if on_shard is not None:
                on_shard(stage, rows, shard.info)

    def _in_order(self, stage: Stage, missing: list[range]) -> Iterator[tuple[range, PackedShard]]:
        for rows in list(missing):
            start = time.monotonic()
            columns, stats = stage.compute(rows)
            seconds = time.monotonic() - start
            yield rows, pack_shard(stage.name, self.shards.settings, rows, columns, {**stats, "wall_seconds": seconds})

    def _checked(self, missing: list[range]) -> Iterator[range]:
        """Slices as a driver takes them, noticing signals between them."""
        for rows in list(missing):
            self.interrupts.check()
            yield rows

    def _set_aside(self, path: Path) -> None:
        with self.explained():
            (self.path / "damaged").mkdir(exist_ok=True)
            os.replace(path, self.path / "damaged" / path.name)
        self.damaged.append(path.name)

    @contextlib.contextmanager
    def explained(self) -> Any:
        """Errors of the disk as RunError."""
        try:
            yield
        except OSError as error:
            if not self.path.is_dir():
                raise RunError(f"run folder {self.name} was removed while the run wrote to it") from error
            raise RunError(
                f"cannot write to run folder {self.name}: {error.strerror or error}; what is whole is kept, "
                "and the same command continues"
            ) from error


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
