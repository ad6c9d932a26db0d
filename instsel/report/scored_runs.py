"""Run folders as a report reads them: finished, column by column, never whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.score_columns import from_table
from instsel.report.measures import Measure, meaning
from instsel.runs.finished_run import RunReader, read_run
from instsel.runs.manifest_shape import Manifest
from instsel.runs.results import open_result
from instsel.runs.scored_files import ScoredFile
from instsel.runs.shards import how_to_repair

_ROW_NUMBERS = ("best", "neighbor")  # whole numbers that measure nothing


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run folder: its manifest, its result, and the columns of it that count as the method's.

    `columns` has the name in the result of each such column.
    """

    path: Path
    name: str
    manifest: Manifest
    scored: ScoredFile
    columns: dict[str, str]

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.manifest["method"])

    @property
    def original(self) -> list[str]:
        """The columns of the input."""
        added = set(self.columns.values())
        return [name for name in self.scored.columns if name not in added]

    def column(self, name: str) -> str | None:
        """How the method's column is called in the result; None where there is none."""
        return self.columns.get(name)

    def measures(self) -> list[Measure]:
        """The method's columns of one number a row, that by which rows are selected first."""
        first = str(self.manifest.get("score", "score"))
        kinds = self.scored.kinds()
        found = _of_groups(self) if self.column("scores") and first == "best" else []
        plain = [name for name, column in self.columns.items() if _is_number(kinds[column])]
        plain = [name for name in plain if name not in _ROW_NUMBERS]
        if self.manifest.get("parameters", {}).get("rule") == "gain":  # which is the score itself
            plain = [name for name in plain if name != "gain"]
        for name in sorted(plain, key=lambda one: one != first):
            found.append(self.measure(name, self.scored.numbers(self.columns[name])))
        return found

    def measure(self, name: str, values: np.ndarray) -> Measure:
        """Values with what is known of them."""
        return Measure(name, *meaning(self.method, name, self.manifest.get("parameters", {})), values)

    def statuses(self) -> tuple[np.ndarray, list[str]]:
        """The status of each row as a number, and the statuses by number; all "ok" where there is no such column."""
        column = self.column("status")
        return (np.zeros(self.rows, np.int64), ["ok"]) if column is None else self.scored.labels(column)

    @property
    def rows(self) -> int:
        """How many rows the input has."""
        return int(self.manifest["rows"])

    def stage(self, stage: str, column: str, rows: Sequence[int] | None = None) -> np.ndarray | None:
        """A column of an earlier stage, kept in the folder's shards, at all rows or some; None where there is none.

        Raises ValueError where a shard is not as it was written.
        """
        reader = RunReader(self.path, self.manifest)
        for kept in reader.stages():
            if kept.name == stage:
                found, damaged = reader.shards().look(kept)
                there = max((of_shard.stop for of_shard in found), default=0)
                numbers = np.arange(there) if rows is None else np.array(rows, np.int64)
                if rows is None and kept.missing(found):
                    if damaged:
                        raise ValueError(f"{damaged[0]} is not as it was written: {how_to_repair(self.path)}")
                    return None
                return self._from_shards(found, damaged, column, numbers)
        return None

    def _from_shards(
        self, found: dict[range, Path], damaged: list[Path], column: str, rows: np.ndarray
    ) -> np.ndarray | None:
        pieces, order = [], []
        for of_shard, path in found.items():
            places = np.flatnonzero((rows >= of_shard.start) & (rows < of_shard.stop))
            if not len(places):
                continue
            if column not in pq.read_schema(path).names:
                return None
            pieces.append(pq.read_table(path, columns=[column]).take(pa.array(rows[places] - of_shard.start)))
            order.append(places)
        if sum(map(len, order)) < len(rows) and damaged:
            raise ValueError(f"{damaged[0]} is not as it was written: {how_to_repair(self.path)}")
        if not pieces or sum(map(len, order)) < len(rows):
            return None
        values = from_table(pa.concat_tables(pieces))[column]
        return values[np.argsort(np.concatenate(order), kind="stable")]


def open_run(path: Path) -> Run:
    """A finished run folder; ValueError, in a line, where it is none."""
    read = read_run(path)
    manifest = read.manifest
    if "compared" not in manifest or ("rows" not in manifest and manifest.get("state") == "finished"):
        raise ValueError(f"the manifest of {path} lacks what this version writes: make the run again")
    if read.result() is None:
        raise ValueError(f"{path} is not a finished run: the same command continues it (see instsel status {path})")
    scored = open_result(read)
    return Run(path, path.resolve().name, manifest, scored, scored.own)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)


def _of_groups(run: Run) -> list[Measure]:
    """Of groups of answers: the best one's log-probability, and its lead over the second."""
    column = run.column("scores")
    assert column is not None
    best, lead = [], []
    for values, lengths in run.scored.lists(column):
        stops = np.cumsum(lengths)
        padded = np.full((len(lengths), max(2, int(lengths.max(initial=0)))), -np.inf)
        group = np.repeat(np.arange(len(lengths)), lengths)
        padded[group, np.arange(len(values)) - np.repeat(stops - lengths, lengths)] = np.nan_to_num(values, nan=-np.inf)
        ordered = np.sort(padded, axis=1)[:, ::-1]
        with np.errstate(invalid="ignore"):
            best.append(np.where(np.isfinite(ordered[:, 0]), ordered[:, 0], np.nan))
            lead.append(np.where(np.isfinite(ordered[:, 1]), ordered[:, 0] - ordered[:, 1], np.nan))
    joined = [np.concatenate(parts) if parts else np.zeros(0) for parts in (best, lead)]
    return [run.measure("score", joined[0]), run.measure("margin", joined[1])]
