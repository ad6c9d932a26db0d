"""Where a command's rows come from: files, folders, globs, addresses of stores, standard input, datasets of the hub.

Rows come in the order of the names given; those of a folder or glob in the order of their files' names. The digest of
the input is of content and order, never of names: the SHA-256 of a file's bytes as they lie on the disk, compressed or
not (what is compressed anew is another input), of standard input's bytes, the fingerprint of a hub dataset; of several,
the SHA-256 of their digests, a line each.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from instsel.records.files import file_format, iter_batches
from instsel.records.row_lines import row_lines
from instsel.runs.durable_files import digest_file
from instsel.runs.hub_datasets import HubName, open_dataset
from instsel.runs.input_names import files_named
from instsel.runs.input_parts import InputPart, check_formats, joined_batches, parquet_schema, row_places
from instsel.runs.remote_files import fetch, is_address
from instsel.runs.row_store import Batch
from instsel.runs.run_files import resolved
from instsel.runs.spooled_input import Spool

_SHOWN_NAMES = 3
# A shell's <(command) is a pipe that somebody writes; one that lies in a folder could be waited at for ever.
_OPEN_PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


@dataclass(frozen=True, slots=True)
class InputSource:
    """A named input: what it is called, the digest of its content and that of now, reading its rows in batches, where
    rows are, its files here, and the format of its (first) file."""

    name: str
    digest: str
    digest_now: Callable[[], str]
    read: Callable[[], Iterable[Batch]]
    places: Callable[[Sequence[int]], dict[int, str]]  # file and line, or row, by the row's number
    files: tuple[Path, ...]
    format: str  # as `InputPart.format`


def open_input(names: str | Sequence[str], limit: int | None, split: str | None = None) -> InputSource:
    """The input of these names, in order; ValueError or OSError naming what is no input or does not fit the rest."""
    given = [names] if isinstance(names, str) else list(names)
    if not all(given):  # a shell's variable that is not set; as a path it is the folder that one is in
        raise ValueError("input: expected a file, a folder or a dataset's name, got an empty text")
    if len(set(given)) < len(given):
        raise ValueError(f"input {next(name for name in given if given.count(name) > 1)} is named twice")
    parts = [part for name in given for part in _parts(name, split)]
    places = [part.name for part in parts]
    files = tuple(Path(place) for place in places if os.path.isabs(place))
    if len(set(places)) < len(places):
        raise ValueError(f"input {next(name for name in places if places.count(name) > 1)} is named twice")
    seen: dict[Path, Path] = {}
    for file in files:
        if (other := seen.setdefault(resolved(file), file)) != file:
            raise ValueError(f"input {file} is {other} by another name: its rows would be read twice")
    check_formats(parts)
    digest_now = partial(_digest_of, parts)
    rest = f" and {len(places) - _SHOWN_NAMES} more" if len(places) > _SHOWN_NAMES else ""
    shown = ", ".join(places[:_SHOWN_NAMES]) + rest
    return InputSource(
        shown,
        digest_now(),
        digest_now,
        lambda: joined_batches(parts, limit),
        lambda rows: row_places(parts, rows),
        files,
        parts[0].format,
    )


def _digest_of(parts: Sequence[InputPart]) -> str:
    digests = [part.digest() for part in parts]
    lines = "".join(f"{digest}\n" for digest in digests)
    return digests[0] if len(parts) == 1 else hashlib.sha256(lines.encode()).hexdigest()


def _parts(name: str, split: str | None) -> list[InputPart]:
    path = Path(name)
    hub = None if path.exists() else HubName.parsed(name)
    if hub is not None:
        return [open_dataset(hub, split)]
    if split is not None:
        raise ValueError(f"--split is for datasets of the hub, and input {name} is none")
    if is_address(name):
        return [_spooled(spool) for spool in fetch(name)]
    if name == "-":
        return [_spooled(Spool.of_standard_input())]
    if path.is_dir() or (glob.has_magic(name) and not path.exists()):
        return [_file(found) for found in files_named(name)]
    if not path.exists():
        raise ValueError(f"input {name} does not exist")
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and name.startswith(_OPEN_PIPES):
        with open(path, "rb") as stream:
            return [_spooled(Spool(stream, name))]
    if not stat.S_ISREG(mode):
        raise ValueError(f"input {name} is not a regular file")
    return [_file(path)]


def _file(path: Path) -> InputPart:
    return InputPart(
        os.path.abspath(path),
        file_format(path),
        lambda: digest_file(path),
        lambda limit: iter_batches(path, limit=limit),
        lines=partial(row_lines, path),
    )


def _spooled(spool: Spool) -> InputPart:
    def read(limit: int | None) -> Iterator[Batch]:
        with spool.named():
            yield from iter_batches(spool.path, limit=limit)

    with spool.named():
        kind = file_format(spool.path)
        schema = parquet_schema(spool.path) if kind == "Parquet" else None
    lines = partial(row_lines, spool.path)
    return InputPart(spool.name, kind, lambda: digest_file(spool.path), read, schema, lines)
