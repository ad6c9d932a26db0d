"""What rows were scored with: their probes, their neighbour, anchors and tasks, or their own answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.report.scored_runs import Run
from instsel.report.texts import RowText, given_texts

SHOWN_ANCHORS = 3  # of those that a row helps most, and of those that it harms most


@dataclass(frozen=True, slots=True)
class Companion:
    """Something that a row was scored with: a probe, a neighbour, an anchor, or one of its own answers.

    title    what it is, and which
    row      its number in the pool; None where it is no row of it
    figures  what was found, each a name and a number
    answer   the place of the row's own answer that it is; None where it is something else
    text     of one that is no row of the pool, where it is known
    """

    title: str
    row: int | None
    figures: tuple[tuple[str, float], ...]
    answer: int | None = None
    text: RowText | None = None


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
        known = [-np.inf if score is None or np.isnan(score) else score for score in scores or ()]
        found[row] = tuple(
            Companion(f"answer {place + 1}{' (best)' if place == best else ''}", None,
                      _figures(**{"log-probability": score}), place)
            for place, score in sorted(enumerate(scores or ()), key=lambda one: -known[one[0]])
        )  # fmt: skip
    return found


def _anchors(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    alone, after = run.stage("zero_shot", "zero_shot"), run.stage("one_shot", "one_shot", rows)
    chosen = run.stage("anchors", "anchor_row")
    if alone is None or after is None:
        return {}
    gains = np.asarray(after, np.float64) - alone
    given = given_texts(run, "anchors") if chosen is None else []
    name = "gain, nats a token"
    return {row: _most(gain, "anchor", name, chosen, given) for row, gain in zip(rows, gains, strict=True)}


def _tasks(run: Run, rows: Sequence[int]) -> dict[int, tuple[Companion, ...]]:
    found, given = {}, given_texts(run, "assessment")
    for row, (values,) in zip(rows, _take(run, rows, "influence"), strict=True):
        numbers = np.array([np.nan if value is None else value for value in values or ()], np.float64)
        found[row] = _most(numbers, "task", "influence", None, given)
    return found


def _most(
    values: np.ndarray, kind: str, name: str, numbers: np.ndarray | None, given: Sequence[RowText]
) -> tuple[Companion, ...]:
    """Those with the highest and the lowest values."""
    order = np.argsort(-values, kind="stable")
    order = order[np.isfinite(values[order])]
    if len(order) > 2 * SHOWN_ANCHORS:
        order = np.r_[order[:SHOWN_ANCHORS], order[-SHOWN_ANCHORS:]]
    rows = [None] * len(values) if numbers is None else numbers.tolist()
    texts: Sequence[RowText | None] = given if len(given) == len(values) else [None] * len(values)
    return tuple(
        Companion(f"{kind} {place + 1}", rows[place], ((name, float(values[place])),), text=texts[place])
        for place in order.tolist()
    )


def _figures(**named: float | None) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(value)) for name, value in named.items() if value is not None)
