"""Rows of any known format as conversations to train on: earlier turns, the prompt, one answer or a preferred pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instsel.records import open_rows, to_examples, to_groups
from instsel.records.formats import detect_layout

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row: `rejected` is None unless it is a preference pair."""

    instruction: str
    input: str
    history: tuple[tuple[str, str], ...]
    response: str
    rejected: str | None = None

    @property
    def system(self) -> str:
        """The text of a first system turn; empty where there is none."""
        return self.history[0][1] if self.history and self.history[0][0] == "system" else ""

    @property
    def earlier(self) -> tuple[tuple[str, str], ...]:
        """The turns between the system's and the last user turn."""
        return self.history[1:] if self.history and self.history[0][0] == "system" else self.history

    @property
    def prompt(self) -> list[Message]:
        """All turns before the answer; material apart from the instruction follows it after an empty line."""
        asked = f"{self.instruction}\n\n{self.input}" if self.input.strip() else self.instruction
        return [{"role": role, "content": text} for role, text in (*self.history, ("user", asked))]


def read_conversations(
    rows: Any, columns: Mapping[str, str] | None = None, best: str | None = "best"
) -> list[Conversation]:
    """Every row as a conversation; a group scored by GRAPE gives its best answer, whose place is in the column `best`.

    Raises ValueError as `to_examples` does, for candidate groups without that column, and for rows of which some
    are pairs and others not.
    """
    names, batches = open_rows(rows)
    listed = [row for batch in batches for row in batch]
    if best is not None and best in names:
        return list(_best_of(listed, columns, best))
    layout = detect_layout(names, columns)
    if layout.answers == ("chosen", "rejected"):
        return [
            Conversation(g.instruction, g.input, g.history, *g.responses) for g in to_groups(listed, columns=columns)
        ]
    examples = to_examples(listed, columns=columns, layout=layout)
    return [Conversation(e.instruction, e.input, e.history, e.response) for e in examples]


def _best_of(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None, column: str
) -> Iterator[Conversation]:
    for number, (row, group) in enumerate(zip(rows, to_groups(rows, columns=columns), strict=True)):
        best = row[column]
        if best is None or not 0 <= int(best) < len(group.responses):
            raise ValueError(f"row {number} (counting from 0): column {column!r} names no candidate, got {best!r}")
        yield Conversation(group.instruction, group.input, group.history, group.responses[int(best)])
