"""Rows by their numbers, read where they are needed: from a run folder's file, by whoever sees it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from instsel.records import Unreadable, to_examples, to_groups
from instsel.records.examples import ReadRow
from instsel.records.formats import Layout
from instsel.records.json_types import JsonObject
from instsel.records.unread_keys import UnreadKeys
from instsel.runs.row_store import RowStore


@dataclass(frozen=True, slots=True)
class RowReader:
    """How the rows of a run's file are read as examples or groups."""

    kind: str  # as `Method.rows`
    columns: Mapping[str, str] | None
    layout: Layout
    refused: Mapping[int, str] = field(default_factory=dict)  # by row, why the template does

    def read(self, store: RowStore, numbers: Iterable[int], unread: UnreadKeys | None = None) -> dict[int, ReadRow]:
        """Some rows as examples, or as groups, by their number; `Unreadable` in place of one that is none.

        `unread` gathers what is not part of the prompt.
        """
        unread = unread or UnreadKeys()  # rows are read more than once, and not warned of each time
        wanted = sorted(set(numbers))
        if wanted and wanted[-1] - wanted[0] == len(wanted) - 1:
            found = self._read(store.rows(wanted[0], wanted[-1] + 1), wanted[0], unread)
        else:
            found = self._read(store.take(wanted), 0, unread)
        records = dict(zip(wanted, found, strict=True))
        return records | {row: Unreadable(self.refused[row]) for row in self.refused.keys() & records.keys()}

    def for_rows(self, numbers: Iterable[int]) -> RowReader:
        """A reader that knows no more than what these rows call for."""
        return replace(self, refused={row: self.refused[row] for row in self.refused.keys() & set(numbers)})

    def _read(self, rows: list[JsonObject], first: int, unread: UnreadKeys) -> Sequence[ReadRow]:
        read: Callable[..., Sequence[ReadRow]] = to_groups if self.kind == "group" else to_examples
        settings = {"columns": self.columns, "layout": self.layout, "first_row": first}
        return read(rows, **settings, unread=unread, on_error="status")


class RowReference(Mapping[int, ReadRow]):
    """Rows by number, read from a run folder's file by whoever first asks for one; OSError where it is not seen."""

    def __init__(self, path: Path, numbers: Iterable[int], reader: RowReader) -> None:
        self._numbers = sorted(set(numbers))
        self._path, self._reader = str(path.absolute()), reader.for_rows(self._numbers)
        self._read: dict[int, ReadRow] | None = None

    def __getitem__(self, number: int) -> ReadRow:
        if self._read is None:
            self._read = self._reader.read(_store(self._path), self._numbers)
        return self._read[number]

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


@functools.lru_cache(maxsize=4)
def _store(path: str) -> RowStore:
    return RowStore(Path(path))
