"""Rows that come through a pipe or from afar, kept in a temporary file: they come once, and are read several times."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from instsel.records.compression import open_bytes
from instsel.records.files import SUFFIXES

STANDARD_INPUT = "standard input"


class Spool:
    """A stream's bytes in a file that is removed with this object.

    A pipe has no `file_name` to say that its text is CSV: what is neither JSON nor Parquet is read as CSV, or as
    columns with tabs between them where the first line has a tab. Raises ValueError for an empty stream.
    """

    def __init__(self, stream: BinaryIO, name: str, file_name: str = "") -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="instsel-input-")
        self.path = Path(self._folder.name) / (file_name or "rows")
        with open(self.path, "wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        if self.path.stat().st_size == 0:
            raise ValueError(f"{name} is empty")
        if not file_name:
            self.path = self.path.rename(self.path.with_suffix(self._suffix()))

    @classmethod
    def of_standard_input(cls) -> Spool:
        """Standard input to its end; ValueError where it is a terminal or closed."""
        if sys.stdin is None or sys.stdin.closed:
            raise ValueError("input - is standard input, and that is closed")
        if sys.stdin.isatty():
            raise ValueError("input - is standard input, and that is a terminal: send rows to it through a pipe")
        return cls(sys.stdin.buffer, STANDARD_INPUT)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors name the stream and not the temporary file."""
        try:
            yield
        except ValueError as error:
            raise ValueError(str(error).replace(str(self.path), self.name)) from None

    def _suffix(self) -> str:
        with self.named(), open_bytes(self.path) as file:
            head = file.read(4096)
        start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] in (b"{", b"[") or head.startswith(b"PAR1") or b"\0" in head:
            return ""  # the content says it
        line = head.lstrip(b"\r\n").split(b"\n", 1)[0]
        suffix = ".tsv" if b"\t" in line else ".csv" if b"," in line else ""
        assert not suffix or suffix in SUFFIXES
        return suffix
