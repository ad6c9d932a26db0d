"""The rows of a run's input, as its file holds them and as its method reads them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from instsel.methods.parameters import numbers_of_column
from instsel.parallel.row_references import RowReader, RowReference
from instsel.records.examples import ReadRow
from instsel.records.formats import detect_layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.configuration import RunConfiguration
from instsel.runs.inputs import InputSource
from instsel.runs.row_store import RowStore, write_rows

_COLUMN_ROWS = 4096  # rows read at a time for one of their columns


@dataclass(slots=True)
class InputRows:
    """Rows on the disk, their columns, and how they are read."""

    store: RowStore
    columns: list[str]
    reader: RowReader

    @classmethod
    def of(cls, configuration: RunConfiguration, store: RowStore, columns: list[str]) -> InputRows:
        """The rows as a run's method reads them."""
        kind, mapping = configuration.method.rows, configuration.columns
        return cls(store, columns, RowReader(kind, mapping, detect_layout(columns, mapping, kind=kind)))

    def __len__(self) -> int:
        return len(self.store)

    def read(self, numbers: Iterable[int], unread: UnreadKeys | None = None) -> dict[int, ReadRow]:
        """Some rows as examples, or as groups, by their number; `unread` gathers what is not part of the prompt."""
        return self.reader.read(self.store, numbers, unread)

    def refer(self, numbers: Iterable[int]) -> RowReference:
        """The same, to be read by a worker that sees the file."""
        return RowReference(self.store.path, numbers, self.reader)

    def leave_out(self, refused: Mapping[int, str]) -> None:
        """Rows that the template refuses, and why: from now on they count as such that cannot be read."""
        self.reader = replace(self.reader, refused=refused)

    def numbers(self, parameter: str, name: str, words: tuple[str, ...]) -> object:
        """The numbers of a column that a parameter names, or one of the words that it may be."""

        def read(column: str) -> list[object]:
            starts = range(0, len(self), _COLUMN_ROWS)
            return [row.get(column) for start in starts for row in self.store.rows(start, start + _COLUMN_ROWS)]

        return numbers_of_column(parameter, name, words, self.columns, read)


@contextlib.contextmanager
def rows_for_now(source: InputSource) -> Iterator[tuple[RowStore, list[str]]]:
    """A block with an input's rows on the disk, and the names of their columns."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.arrow"
        with open(path, "wb") as file:
            _, columns = write_rows(file, source.read())
        rows = RowStore(path)
        try:
            yield rows, columns
        finally:
            rows.close()
