"""A run folder as those see it who only read it: nothing is locked, made, moved or removed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instsel.runs.durable_files import digest_file
from instsel.runs.manifest import FORMAT, read_manifest, settings_digest
from instsel.runs.manifest_shape import Manifest
from instsel.runs.overwriting import is_whole
from instsel.runs.row_store import RowStore
from instsel.runs.run_files import COLUMNS, DAMAGED, MANIFEST, NEXT, ROWS_NAME, SHARDS
from instsel.runs.shards import ShardedStage, ShardFolder


@dataclass(frozen=True, slots=True)
class RunReader:
    """A run and where its files lie."""

    folder: Path
    manifest: Manifest

    def place(self, name: str) -> Path:
        """Where a file or folder of the run lies: in `next` while the run takes the place of another."""
        inner = self.folder / NEXT / name
        return inner if is_whole(self.folder / NEXT) and inner.exists() else self.folder / name

    def result(self) -> Path | None:
        """The merged result of a finished run; None where the run is not finished or the file is not there."""
        name = (self.manifest.get("output") or {}).get("name")
        if self.manifest.get("state") != "finished" or name is None:
            return None
        path = self.place(name)
        return path if path.is_file() else None

    def stages(self) -> list[ShardedStage]:
        """The stages that have begun; to be read, not computed."""
        return [ShardedStage(name, rows) for name, rows, *_ in self.manifest.get("stages", ())]

    def shards(self, scratch: Path | None = None) -> ShardFolder:
        """The run's shards; arrays are mapped from files in `scratch`."""
        names = self.manifest.get("compared", ())
        settings = {"format": FORMAT, **{name: self.manifest.get(name) for name in names}}
        folder = self.place(SHARDS)
        return ShardFolder(
            folder, folder.parent / DAMAGED, scratch or folder.parent / COLUMNS, settings_digest(settings)
        )

    def column(self, stage: ShardedStage, name: str) -> np.ndarray:
        """A column of a complete stage; one of lists of numbers is mapped from a temporary file.

        Raises ValueError where a shard is damaged or gone, or has no such column.
        """
        with tempfile.TemporaryDirectory(prefix="instsel-columns-") as scratch:
            columns = self.shards(Path(scratch)).columns(stage)
            if name not in columns:
                raise ValueError(f"the stage {stage.name} in {self.folder} has no column {name!r}")
            return columns[name]

    def kept_rows(self) -> RowStore | None:
        """The input's rows as the run keeps them, if they are there and whole."""
        for folder in (self.folder / NEXT, self.folder) if is_whole(self.folder / NEXT) else (self.folder,):
            for path in folder.glob("rows-*.arrow"):
                match = ROWS_NAME.fullmatch(path.name)
                if match and path.is_file() and digest_file(path).startswith(match["digest"]):
                    return RowStore(path)
        return None


def read_run(folder: Path) -> RunReader:
    """A run folder, whatever its state; ValueError, in a line, where it is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder" if folder.exists() else f"run folder {folder} does not exist")
    manifest, damaged = read_manifest(folder / NEXT if is_whole(folder / NEXT) else folder)
    if damaged:
        raise ValueError(f"the manifest of {folder} is damaged; the command that made the run repairs it")
    if manifest is None:
        runs = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
        hint = f"; {' and '.join(map(str, runs[:2]))} {'is one' if len(runs) == 1 else 'are some'}" if runs else ""
        raise ValueError(f"{folder} is not a run folder: it has no {MANIFEST}{hint}")
    return RunReader(folder, manifest)
