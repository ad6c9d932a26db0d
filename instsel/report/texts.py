"""The texts of rows by number: what was asked and what was answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instsel.records import Example, Group, Unreadable, to_examples, to_groups
from instsel.records.chat import text_of_message
from instsel.records.formats import Layout, detect_layout
from instsel.records.json_columns import whole_rows
from instsel.records.json_types import Row
from instsel.records.unread_keys import UnreadKeys
from instsel.report.scored_runs import Run


@dataclass(frozen=True, slots=True)
class RowText:
    """A row for readers: what was asked, and the answer or, of a group, all answers; why it is none, if it is none."""

    prompt: str
    answers: tuple[str, ...]
    unreadable: str = ""

    @property
    def answer(self) -> str:
        """The answer, or all of them under their numbers."""
        return self.ordered(range(len(self.answers)))

    def ordered(self, places: Iterable[int]) -> str:
        """The answer, or those at these places under their numbers."""
        if len(self.answers) == 1:
            return self.answers[0]
        return "\n".join(f"{place + 1}. {self.answers[place].strip()}" for place in places)


def read_texts(run: Run, rows: np.ndarray, columns: Sequence[str] | None = None) -> dict[int, RowText]:
    """The texts of these rows of a run."""
    names = run.original if columns is None else list(columns)
    table = run.scored.take(rows, [name for name in names if name in run.scored.columns])
    found = row_texts(whole_rows(table), names, run.manifest.get("column_mapping"), groups=run.method == "grape")
    return dict(zip(rows.tolist(), found, strict=True))


def given_texts(run: Run, parameter: str) -> list[RowText]:
    """The rows of the file that a flag of the run named; none where that file is not there, or another, any more."""
    from instsel.runs.inputs import open_input

    path = run.manifest.get("arguments", {}).get(parameter)
    if not isinstance(path, str) or not Path(path).is_file():
        return []
    try:
        source = open_input(path, None)
        if source.digest != run.manifest.get("parameters", {}).get(parameter):
            return []
        mapping = run.manifest.get("column_mapping")
        return [
            _of_record(found)
            for batch in source.read()
            for found in to_examples(batch, columns=mapping, unread=UnreadKeys())
        ]
    except (OSError, ValueError):
        return []


def row_texts(
    rows: Sequence[Mapping[str, object]],
    names: Sequence[str],
    mapping: Mapping[str, str] | None,
    *,
    groups: bool = False,
) -> list[RowText]:
    """Rows of any known format as texts; those of no known format as their columns."""
    for kind in ("group", "example") if groups else ("example", "group"):
        try:
            layout = detect_layout(names, mapping, kind=kind)
        except ValueError:
            continue
        read = to_groups if kind == "group" else to_examples
        return [_row_text(row, read, layout) for row in rows]
    return [_as_columns(row) for row in rows]


def _row_text(row: Row, read: Callable[..., Sequence[Example | Group]], layout: Layout) -> RowText:
    (found,) = read([row], layout=layout, unread=UnreadKeys(), on_error="status")
    if isinstance(found, Unreadable):
        return replace(_as_columns(row), unreadable=found.reason)
    return _of_record(found)


def _of_record(record: Example | Group) -> RowText:
    return RowText(prompt_text(record), record.responses if isinstance(record, Group) else (record.response,))


def prompt_text(record: Example | Group) -> str:
    """Everything before the answer, earlier turns with their role."""
    chat = record.chats[0] if isinstance(record, Group) and record.chats else getattr(record, "chat", None)
    if chat is not None:
        return "\n\n".join(f"[{message['role']}] {text_of_message(message)}" for message in chat.messages[:-1])
    turns = [f"[{role}] {text}" for role, text in record.history]
    return "\n\n".join([*turns, *filter(None, (record.instruction, record.input))])


def _as_columns(row: Mapping[str, object]) -> RowText:
    lines = [
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in row.items()
        if value is not None
    ]
    return RowText("\n".join(lines), ())
