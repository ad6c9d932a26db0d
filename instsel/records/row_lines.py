"""On which lines of a text file its rows begin, for messages that name them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from instsel.records.compression import open_text
from instsel.records.files import file_format
from instsel.records.json_rows import is_json_lines


def row_lines(path: Path, rows: Sequence[int]) -> dict[int, int]:
    """The lines, counted from 1, of rows counted from 0, of a file of JSON lines; none of any other file."""
    if file_format(path) != "JSON" or not is_json_lines(path):
        return {}
    wanted = set(rows)
    with open_text(path, newline="\n") as file:
        filled = (number for number, line in enumerate(file, 1) if line.strip())
        return {row: line for row, line in enumerate(itertools.islice(filled, max(rows) + 1)) if row in wanted}
