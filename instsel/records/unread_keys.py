"""Keys of rows that are not part of the prompt: of turns, beside role and text, and columns that go with them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from instsel.records.formats import Layout, shortened
from instsel.records.json_types import Row
from instsel.records.row_sources import plain

# Columns of a row that a trainer reads with its turns.
COLUMNS = (
    "tools", "functions", "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "weight",
    "train", "chat_template_kwargs", "images", "videos", "audios",
)  # fmt: skip
_SHOWN = 20


def turn_keys(turn: Row) -> tuple[str, str]:
    """The keys of a turn's role and text."""
    return ("role", "content") if turn.get("role") is not None else ("from", "value")


def turns_in(value: object) -> Iterator[Row]:
    """The turns of a cell, which may hold one, a list of them, or something else."""
    value = value if isinstance(value, (str, list, tuple, Mapping)) or value is None else plain(value)
    for turn in [value] if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        if isinstance(turn, Mapping) and ("role" in turn or "from" in turn):
            yield turn


class UnreadKeys:
    """Counts the rows in which a key holds something that the prompt does not contain; null and empty hold nothing."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts = Counter(counts or {})

    def add(self, row: Row, layout: Layout) -> None:
        """Count what a row holds besides its prompt and its answers."""
        self.counts.update(keys_beside(row, layout))

    def reached(self, keys: Iterable[str]) -> None:
        """Keys that a row was counted for, and that its template has written after all."""
        self.counts -= Counter(keys)

    def summary(self) -> str:
        """The keys and their numbers of rows for a message; empty where there are none."""
        if not self.counts:
            return ""
        most = self.counts.most_common(_SHOWN)
        shown = [f"{shortened(key)} ({count:,} row{'s' * (count != 1)})" for key, count in most]
        more = f" and {len(self.counts) - _SHOWN} more" if len(self.counts) > _SHOWN else ""
        return ", ".join(shown) + more

    def warn(self) -> None:
        """Say once what is not part of the prompt."""
        if self.counts:
            warnings.warn(f"not part of the prompt: {self.summary()}", stacklevel=4)


def keys_beside(row: Row, layout: Layout) -> list[str]:
    """The keys in which a row holds something besides the texts of its turns."""
    used = set(layout.columns.values())
    found = {name: None for name in COLUMNS if name in row and name not in used and holds(row[name])}
    for column in used:
        for turn in turns_in(row.get(column)):
            read = turn_keys(turn)
            found |= {str(key): None for key, value in turn.items() if key not in read and holds(value)}
    return list(found)


def holds(value: object) -> bool:
    """Whether a value says something; False and 0 do."""
    value = plain(value) if hasattr(value, "__array__") else value
    return value not in (None, "", [], {}) and value == value
