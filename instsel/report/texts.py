"""The texts of rows by number: what was asked, what was answered, and the rows that were shown with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.records import Example, Group, to_examples, to_groups
from instsel.records.formats import detect_layout
from instsel.report.scored_runs import Run

SHOWN_ANCHORS = 3  # of those that a row helps most, and of those that it harms most


@dataclass(frozen=True, slots=True)
class RowText:
    """A row for readers: what was asked, and the answer or, of a group, all answers."""

    prompt: str
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The answer, or all of them under their numbers."""
        if len(self.answers) == 1:
            return self.answers[0]
        return "\n".join(f"{number}. {text.strip()}" for number, text in enumerate(self.answers, 1))


@dataclass(frozen=True, slots=True)
class Companion:
    """Something that a row was scored with: a probe, a neighbour, an anchor, or one of its own answers.

    title    what it is, and which
    row      its number in the pool; None where it is no row of it
    figures  what was found, each a name and a number
    answer   the place of the row's own answer that it is; None where it is something else
    """

    title: str
    row: int | None
    figures: tuple[tuple[str, float], ...]
    answer: int | None = None


def read_texts(run: Run, rows: np.ndarray, columns: Sequence[str] | None = None) -> dict[int, RowText]:
    """The texts of these rows of a run."""
    names = run.original if columns is None else list(columns)
    table = run.scored.take(rows, [name for name in names if name in run.scored.columns])
    found = row_texts(table.to_pylist(), names, run.manifest.get("column_mapping"), groups=run.method == "grape")
    return dict(zip(rows.tolist(), found, strict=True))


def row_texts(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], mapping: Mapping[str, str] | None, *, groups: bool = False
) -> list[RowText]:
    """Rows of any known format as texts; those of no known format as their columns."""
    for kind in ("group", "example") if groups else ("example", "group"):
        try:
            layout = detect_layout(names, mapping, kind=kind)
        except ValueError:
            continue
        read: Any = to_groups if kind == "group" else to_examples
        return [_row_text(row, read, layout) for row in rows]
    return [_as_columns(row) for row in rows]


def _row_text(row: Mapping[str, Any], read: Any, layout: Any) -> RowText:
    try:
        (found,) = read([row], layout=layout)
    except ValueError:
        return _as_columns(row)
    return RowText(prompt_text(found), found.responses if isinstance(found, Group) else (found.response,))


def prompt_text(record: Example | Group) -> str:
    """Everything before the answer, earlier turns with their role."""
    turns = [f"[{role}] {text}" for role, text in record.history]
    return "\n\n".join([*turns, *filter(None, (record.instruction, record.input))])


def _as_columns(row: Mapping[str, Any]) -> RowText:
    lines = [
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in row.items()
        if value is not None
    ]
    return RowText("\n".join(lines), ())


def read_companions(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    """What each of these rows was scored with, where the run has kept it."""
    if run.column("probes"):
        return _probes(run, rows)
    if run.column("neighbor"):
        return _neighbors(run, rows)
    if run.column("scores") and run.column("best"):
        return _candidates(run, rows)
    if run.method == "nuggets":
        return _anchors(run, rows)
    if run.column("influence"):
        return _tasks(run, rows)
    return {}


def _take(run: Run, rows: Sequence[int], *names: str) -> Iterable[tuple[Any, ...]]:
    columns = [run.column(name) for name in names]
    table = run.scored.take(np.array(rows, np.int64), [column for column in columns if column is not None])
    lists = [[None] * len(rows) if column is None else table.column(column).to_pylist() for column in columns]
    return zip(*lists, strict=True)


def _probes(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    found = {}
    taken = _take(run, rows, "probes", "influence", "similarity")
    for row, (probes, influence, similarity) in zip(rows, taken, strict=True):
        known = zip(probes or (), influence or (), similarity or (), strict=False)
        found[row] = tuple(
            Companion(f"probe {place + 1}", int(probe), _figures(influence=gain, cosine=cosine))
            for place, (probe, gain, cosine) in enumerate(known)
            if probe is not None and probe >= 0
        )
    return found


def _neighbors(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    return {
        row: (Companion("neighbour", int(neighbor), _figures(cosine=similarity)),) if (neighbor or 0) >= 0 else ()
        for row, (neighbor, similarity) in zip(rows, _take(run, rows, "neighbor", "similarity"), strict=True)
        if neighbor is not None
    }


def _candidates(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    found = {}
    for row, (scores, best) in zip(rows, _take(run, rows, "scores", "best"), strict=True):
        found[row] = tuple(
            Companion(f"answer {place + 1}{' (best)' if place == best else ''}", None,
                      _figures(**{"log-probability": score}), place)
            for place, score in enumerate(scores or ())
        )  # fmt: skip
    return found


def _anchors(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    alone, after = run.stage("zero_shot", "zero_shot"), run.stage("one_shot", "one_shot", rows)
    chosen = run.stage("anchors", "anchor_row")
    if alone is None or after is None:
        return {}
    gains = np.asarray(after, np.float64) - alone
    return {row: _most(gain, "anchor", "gain, nats a token", chosen) for row, gain in zip(rows, gains, strict=True)}


def _tasks(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    found = {}
    for row, (values,) in zip(rows, _take(run, rows, "influence"), strict=True):
        numbers = np.array([np.nan if value is None else value for value in values or ()], np.float64)
        found[row] = _most(numbers, "task", "influence", None)
    return found


def _most(values: np.ndarray, kind: str, name: str, numbers: np.ndarray | None) -> tuple[Companion, ...]:
    """Those with the highest and the lowest values."""
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    if len(order) > 2 * SHOWN_ANCHORS:
        order = np.r_[order[:SHOWN_ANCHORS], order[-SHOWN_ANCHORS:]]
    rows = [None] * len(values) if numbers is None else numbers.tolist()
    return tuple(
        Companion(f"{kind} {place + 1}", rows[place], ((name, float(values[place])),)) for place in order.tolist()
    )


def _figures(**named: float | None) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(value)) for name, value in named.items() if value is not None)
