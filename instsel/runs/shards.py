"""Shards of a stage: Parquet files that carry the digest of their content in their name and what they are inside."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from instsel.records.score_columns import Columns, to_arrow
from instsel.runs.durable_files import digest_file, durable_file, remove_unfinished
from instsel.runs.manifest_shape import is_count, is_mapping, is_number, is_text
from instsel.runs.run_files import ARRAY_NAME, RESULTS, SHARD_NAME, SHARDS
from instsel.runs.stage_columns import StageColumns

DIGEST_CHARACTERS = 16
_METADATA_KEY = b"instsel"

Stats = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ShardedStage:
    """A part of a run as its folder keeps it: `rows` rows, in shards that end anywhere."""

    name: str
    rows: int

    def missing(self, found: Iterable[range]) -> list[range]:
        """The rows between those of `found`, which rise and do not overlap, each range as long as can be."""
        edges = [0, *(edge for rows in found for edge in (rows.start, rows.stop)), self.rows]
        return [range(end, start) for end, start in zip(edges[::2], edges[1::2], strict=True) if end < start]


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """What a shard says of itself: its rows, the settings of its run, its rows by status, its cost."""

    settings: str
    first_row: int
    num_rows: int
    counts: dict[str, int] = field(default_factory=dict)
    stats: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PackedShard:
    """A shard as the bytes of its file, their SHA-256 in hexadecimal, and what the shard says of itself."""

    content: bytes
    digest: str
    info: ShardInfo


def pack_shard(name: str, settings: str, rows: range, columns: Columns, stats: Stats) -> PackedShard:
    """A shard's file in memory: what a worker gives, so that the driver of many has only to write it."""
    for column, values in columns.items():
        if len(values) != len(rows):
            raise AssertionError(f"{name}: column {column} has {len(values)} entries for {len(rows)} rows")
    counts = dict(collections.Counter(np.asarray(columns.get("status", ())).tolist()))
    info = ShardInfo(settings, rows.start, len(rows), counts, dict(stats))
    fields = {field: getattr(info, field) for field in info.__slots__}
    table = _stored(name, columns).replace_schema_metadata({_METADATA_KEY: json.dumps(fields).encode()})
    sink = pa.BufferOutputStream()
    # Numbers hardly ever repeat: to look for those that do takes most of the time that embeddings take.
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, sink, use_dictionary=texts)
    content = sink.getvalue().to_pybytes()
    return PackedShard(content, hashlib.sha256(content).hexdigest(), info)


def _stored(name: str, columns: Columns) -> pa.Table:
    found: dict[str, pa.Array] = {}
    for column, values in columns.items():
        try:
            found[column] = to_arrow(values)
        except (pa.ArrowException, TypeError, ValueError) as error:
            kind = getattr(values, "dtype", type(values).__name__)
            raise ValueError(f"stage {name}: column {column!r} must be numbers or texts, got {kind}") from error
    return pa.table(found)


class ShardFolder:
    """The shards of one run; `settings` is the digest of what the run was made with."""

    def __init__(self, folder: Path, damaged: Path, scratch: Path, settings: str) -> None:
        self.folder, self.damaged, self.scratch, self.settings = folder, damaged, scratch, settings

    def prepare(self) -> None:
        """Make the folder and remove what a killed process left behind."""
        self.folder.mkdir(exist_ok=True)
        remove_unfinished(self.folder)
        self.clear_scratch()

    def whole(self, stage: ShardedStage) -> dict[range, Path]:
        """The shards of a stage that are there and whole, in the order of their rows; others of its name are set
        aside."""
        found, damaged = self.look(stage)
        for path in damaged:
            self.damaged.mkdir(exist_ok=True)
            os.replace(path, self.damaged / path.name)
        return found

    def look(self, stage: ShardedStage) -> tuple[dict[range, Path], list[Path]]:
        """The shards of a stage that are there and whole, in the order of their rows, and those that are not; nothing
        is moved.

        A shard's rows are those that it says itself: where shards end is no setting, and its number is but a name.
        """
        whole: list[tuple[int, int, Path]] = []
        damaged: list[Path] = []
        for path in sorted(self.folder.glob(f"{stage.name}-*.parquet")):
            match = SHARD_NAME.fullmatch(path.name)
            if match is None or match["stage"] != stage.name:
                continue  # another stage's, or none of a run
            info = _whole_info(path, self.settings)
            if info is None or not 0 < info.num_rows <= stage.rows - info.first_row:
                damaged.append(path)
            else:
                whole.append((info.first_row, info.first_row + info.num_rows, path))
        found: dict[range, Path] = {}
        end = 0
        for start, stop, path in sorted(whole):
            if start < end:  # rows that another has: a copy, or put there by somebody
                damaged.append(path)
            else:
                found[range(start, stop)], end = path, stop
        return found, damaged

    def write(self, stage: ShardedStage, first_row: int, packed: PackedShard) -> Path:
        """Write one shard and give its file; it has its name only once it is on the disk."""
        name = f"{stage.name}-{first_row:05d}-{packed.digest[:DIGEST_CHARACTERS]}.parquet"
        with durable_file(self.folder, name) as file:
            file.write(packed.content)
        return self.folder / name

    def tables(self, stage: ShardedStage) -> Iterator[pa.Table]:
        """The tables of a complete stage in the order of its rows."""
        for path in self._complete(stage):
            yield pq.read_table(path).replace_schema_metadata(None)

    def columns(self, stage: ShardedStage) -> StageColumns:
        """The columns of a complete stage over all rows, read when they are asked for."""
        return StageColumns(stage.name, self._complete(stage), stage.rows, self.scratch)

    def _complete(self, stage: ShardedStage) -> list[Path]:
        found, _ = self.look(stage)
        if missing := stage.missing(found):
            raise ValueError(damaged_or_gone(stage, missing, self.folder.parent))
        return list(found.values())

    def clear_scratch(self) -> None:
        """Remove the arrays that columns were mapped from: they are copies of what shards hold."""
        with contextlib.suppress(OSError):
            for path in self.scratch.glob("*.npy"):
                if ARRAY_NAME.fullmatch(path.name):
                    path.unlink()
            self.scratch.rmdir()


def read_info(path: Path) -> ShardInfo:
    """What a shard says of itself; ValueError or OSError if it is none."""
    try:
        metadata: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
        info = ShardInfo(**json.loads(metadata[_METADATA_KEY]))
    except (KeyError, TypeError, RecursionError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} is not a shard of a run") from error
    types = (is_text(info.settings), is_count(info.first_row), is_count(info.num_rows))
    if not (all(types) and is_mapping(is_count)(info.counts) and is_mapping(is_number)(info.stats)):
        raise ValueError(f"{path.name} is not a shard of a run")
    return info


def damaged_or_gone(stage: ShardedStage, missing: Sequence[range], folder: Path) -> str:
    """What is said where rows of a complete stage have no whole shard, and what brings them back."""
    return f"{sum(map(len, missing)):,} rows of {stage.name} are damaged or gone: {how_to_repair(folder)}"


def how_to_repair(folder: Path) -> str:
    """What brings back what is damaged or gone in a run folder: a run whose result is whole computes nothing."""
    first = f"remove the result in {folder} and " if any((folder / name).exists() for name in RESULTS) else ""
    return f"{first}run the same command again, which makes it anew"


def says_itself(folder: Path) -> bool:
    """Whether a folder holds a shard that says of itself that it is a run's."""
    for path in (folder / SHARDS).glob("*.parquet"):
        try:
            if SHARD_NAME.fullmatch(path.name) and path.is_file() and read_info(path):
                return True
        except (ValueError, OSError):
            continue
    return False


def _whole_info(path: Path, settings: str) -> ShardInfo | None:
    """What a shard says of itself; None where a file is not as its name's digest says, or not of a run with these
    settings."""
    match = SHARD_NAME.fullmatch(path.name)
    if match is None or not path.is_file() or not digest_file(path).startswith(match["digest"]):
        return None
    try:
        info = read_info(path)
    except (ValueError, OSError):
        return None
    return info if info.settings == settings else None


def infos(folder: Path, stage: str) -> list[ShardInfo]:
    """What the shards of a stage say of themselves, their content unread; for looking at a run from outside."""
    found = []
    for path in sorted(folder.glob(f"{stage}-*.parquet")):
        match = SHARD_NAME.fullmatch(path.name)
        if match and match["stage"] == stage and path.is_file():
            try:
                found.append(read_info(path))
            except (ValueError, OSError):
                continue  # damaged, or replaced while we look: the run itself deals with it
    return found
