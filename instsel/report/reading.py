"""From run folders of one pool to a report: numbers of all rows, texts of those that are shown."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instsel.report.candidate_sources import CandidateSources, read_sources
from instsel.report.companions import Companion, read_companions
from instsel.report.measures import DIFFICULTIES, INFLUENCES, PARTS, Measure
from instsel.report.scored_runs import Run, open_run
from instsel.report.selections import Selection, alone, open_selection, pool_of
from instsel.report.text import shortened
from instsel.report.texts import RowText, read_texts

MAX_ROWS = 10_000  # in the table
ENDS = 10  # rows shown from either end of the ranking
FAILURES = 3  # rows shown of each status
CLASSES = 7  # by colour; the rest are "other"
_CLASS_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Report:
    """What the page shows of runs over one pool of n rows.

    runs        the scoring runs, the first of which decides the ranking
    selection   what was selected, and `whole` whether its pool is known too
    score       what rows are ranked by; also the first of `measures`
    measures    every number of every run, by row
    pair        what is set against what: difficulty and influence, or the two parts of a score
    length      tokens of the answers, where the runs have kept them
    statuses    of each run, its rows by status
    status      of the first run: the number of each row's status int64 [n], and the statuses by number
    classes     rows by the class that gives them their colour, the largest first; one class without a name otherwise
    coloured_by what the classes are
    sources     where the candidates of groups are from, where they say so
    listed      int64, the rows of the table, in order
    ranked      int64, the rows with a score, highest first
    failed      of each status but "ok", its first rows
    texts       of the rows listed and all others shown
    companions  of the highest and lowest rows
    """

    runs: tuple[Run, ...]
    selection: Selection | None
    whole: bool
    score: Measure
    measures: tuple[Measure, ...]
    pair: tuple[Measure, Measure] | None
    length: Measure | None
    statuses: tuple[tuple[str, dict[str, int]], ...]
    status: tuple[np.ndarray, list[str]]
    classes: dict[str, np.ndarray]
    coloured_by: str | None
    sources: CandidateSources | None
    listed: np.ndarray
    ranked: np.ndarray
    failed: dict[str, list[int]]
    texts: dict[int, RowText]
    companions: dict[int, tuple[Companion, ...]]

    @property
    def count(self) -> int:
        """Rows of the pool."""
        return len(self.score.values)

    @property
    def highest(self) -> list[int]:
        """The rows with the highest scores, best first."""
        return [int(row) for row in self.ranked[:ENDS]]

    @property
    def lowest(self) -> list[int]:
        """The rows with the lowest scores, worst first, without those among the highest."""
        return [int(row) for row in self.ranked[ENDS:][-ENDS:][::-1]]


def read_report(
    folders: Sequence[Path], *, colour_by: str | None = None, order: Sequence[str] = (), max_rows: int = MAX_ROWS
) -> Report:
    """Read finished run folders of one pool, and at most one selection from it.

    colour_by  a column of the input whose values give rows their colour, or a key of groups' candidates, of which a
               group has that of its best answer
    order      values of it that come first; the others follow, the most frequent first
    max_rows   rows in the table; of a larger pool a sample, the same at every call

    Raises ValueError where a folder is no finished run, where they are of different pools, or where the pool has no
    column `colour_by`.
    """
    opened = [open_run(path) for path in folders]
    selections = [open_selection(run) for run in opened if run.method == "select"]
    runs = [run for run in opened if run.method != "select"]
    if len(selections) > 1:
        raise ValueError(f"a report is of at most one selection, got {len(selections)}")
    selection = selections[0] if selections else None
    whole = True
    if selection is not None:
        pool = pool_of(selection, runs)
        whole = pool is not None
        runs = [pool, *(run for run in runs if run is not pool)] if pool is not None else [alone(selection)]
    _check_one_pool(runs)
    of_run = _distinct(_without_repeats(runs), [run.name for run in runs])
    if not of_run[0]:
        raise ValueError(f"{runs[0].path} has no column of numbers to report on")
    measures = [measure for found in of_run for measure in found]
    by = "" if selection is None else selection.by
    score = next((measure for measure in of_run[0] if measure.name == by), of_run[0][0])
    status = runs[0].statuses()
    is_column = colour_by is None or colour_by in runs[0].scored.columns
    sources = read_sources(runs[0], None if is_column else colour_by)
    classes, coloured_by = _classes(runs[0], selection if whole else None, colour_by, order, sources)
    listed = listed_rows(score.values, max_rows)
    ranked = np.argsort(-score.values, kind="stable")
    ranked = ranked[np.isfinite(score.values[ranked])]
    failed = {
        name: [int(row) for row in np.flatnonzero(status[0] == number)[:FAILURES]]
        for number, name in enumerate(status[1])
        if name != "ok"
    }
    report = Report(
        runs=tuple(runs),
        selection=selection,
        whole=whole,
        score=score,
        measures=(score, *(one for one in measures if one is not score)),
        pair=_pair(runs, of_run),
        length=_length(runs, measures),
        statuses=tuple((run.name, _counts(*(status if run is runs[0] else run.statuses()))) for run in runs),
        status=status,
        classes=classes,
        coloured_by=coloured_by,
        sources=sources,
        listed=listed,
        ranked=ranked,
        failed=failed,
        texts={},
        companions={},
    )
    ends = list(dict.fromkeys([*report.highest, *report.lowest]))
    companions = next(filter(None, (read_companions(run, ends) for run in runs)), {})
    others = {one.row for several in companions.values() for one in several if one.row is not None}
    others |= {*ends, *(row for rows in failed.values() for row in rows)}
    texts = read_texts(runs[0], np.union1d(listed, np.array(sorted(others), np.int64)))
    return replace(report, texts=texts, companions=companions)


def listed_rows(score: np.ndarray, limit: int) -> np.ndarray:
    """The rows of the table: all of them, or else the hundred at either end and others drawn with a fixed seed.

    >>> listed_rows(np.arange(1000.0), 300)[[0, 99, 200, 299]]  # a hundred others are between them
    array([  0,  99, 900, 999])
    """
    if len(score) <= limit:
        return np.arange(len(score))
    order = np.argsort(score, kind="stable")
    order = order[np.isfinite(score[order])]
    ends = np.union1d(order[: min(100, limit // 3)], order[-min(100, limit // 3) :]) if len(order) else order
    rest = np.setdiff1d(np.arange(len(score)), ends, assume_unique=True)
    drawn = np.random.default_rng(0).choice(rest, limit - len(ends), replace=False)
    return np.union1d(ends, drawn)


def _check_one_pool(runs: Sequence[Run]) -> None:
    for run in runs[1:]:
        for name in ("input_digest", "limit"):
            if run.manifest.get(name) != runs[0].manifest.get(name) or run.rows != runs[0].rows:
                raise ValueError(
                    f"{runs[0].path} and {run.path} are of different pools: {runs[0].manifest.get('input')} "
                    f"({runs[0].rows:,} rows) and {run.manifest.get('input')} ({run.rows:,} rows)"
                )


def _without_repeats(runs: Sequence[Run]) -> list[list[Measure]]:
    """The measures of each run without those that an earlier run has too: the same column by the same model."""
    kept: list[tuple[Run, Measure]] = []
    found = []
    for run in runs:
        new = [one for one in run.measures() if not any(_same(run, one, *other) for other in kept)]
        kept += [(run, one) for one in new]
        found.append(new)
    return found


def _same(run: Run, measure: Measure, other: Run, known: Measure) -> bool:
    alike = all(run.manifest.get(name) == other.manifest.get(name) for name in ("model_digest", "template"))
    if not alike or run is other or (measure.name, measure.label) != (known.name, known.label):
        return False
    apart = np.abs(measure.values - known.values)  # two runs' packs differ, and with them the last digits
    return bool(np.nanmedian(apart) <= 0.01 * np.nanstd(known.values)) if np.isfinite(apart).any() else True


def _distinct(measures: Sequence[Sequence[Measure]], names: Sequence[str]) -> list[list[Measure]]:
    """Measures under labels that differ: those of several runs with one label have their run's name."""
    often = collections.Counter(measure.label for found in measures for measure in found)
    return [
        [one if often[one.label] == 1 else replace(one, label=f"{one.label} ({name})") for one in found]
        for found, name in zip(measures, names, strict=True)
    ]


def _pair(runs: Sequence[Run], measures: Sequence[Sequence[Measure]]) -> tuple[Measure, Measure] | None:
    """Difficulty and influence; or the scores of the first two runs; or the two parts of one method's score."""
    named = {measure.name: measure for found in reversed(measures) for measure in found}
    difficulty = next((named[name] for name in DIFFICULTIES if name in named), None)
    scores = zip(runs, measures, strict=True)
    influence = next((found[0] for run, found in scores if run.method in INFLUENCES and found), None)
    if difficulty is not None and influence is not None:
        return difficulty, influence
    if len(runs) > 1 and measures[1]:
        return measures[0][0], measures[1][0]
    parts = [named[name] for name in PARTS.get(runs[0].method, ()) if name in named]
    return (parts[0], parts[1]) if len(parts) == 2 else None


def _length(runs: Sequence[Run], measures: Sequence[Measure]) -> Measure | None:
    known = next((measure for measure in measures if measure.name == "num_tokens"), None)
    if known is not None:
        return known
    for run in runs:
        tokens = run.stage("influence", "num_tokens")
        if tokens is not None:
            return run.measure("num_tokens", tokens.astype(np.float64))
    return None


def _counts(numbers: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    return dict(sorted(zip(names, counts, strict=True), key=lambda one: -one[1]))


def _classes(
    run: Run,
    selection: Selection | None,
    colour_by: str | None,
    first: Sequence[str],
    sources: CandidateSources | None,
) -> tuple[dict[str, np.ndarray], str | None]:
    """Rows by the value of a column, by the source of their best candidate, or by whether they are selected."""
    if colour_by is not None:
        if colour_by in run.scored.columns:
            numbers, names = run.scored.labels(colour_by)
        elif sources is not None:
            numbers, names = sources.winner % (len(sources.counts) + 1), [*sources.counts, "none"]
        else:
            shown = ", ".join(run.scored.columns[:30])
            raise ValueError(f"--colour-by: {run.scored.path} has no column {colour_by!r}; it has {shown}")
        sizes = np.bincount(numbers, minlength=len(names))
        order = [one for one in np.argsort(-sizes, kind="stable").tolist() if sizes[one]]
        places = {name: place for place, name in enumerate(first)}
        order.sort(key=lambda one: places.get(names[one], len(places)))
        found: dict[str, np.ndarray] = {}
        for one in order[:CLASSES]:
            name = shortened(names[one], _CLASS_CHARACTERS)
            found[name if name not in found else f"{name} ({one})"] = np.flatnonzero(numbers == one)
        if len(order) > CLASSES:
            found["other" if "other" not in found else "all others"] = np.flatnonzero(np.isin(numbers, order[CLASSES:]))
        return found, colour_by
    if selection is not None:
        chosen = np.zeros(run.rows, bool)
        chosen[selection.rows] = True
        return {"selected": np.flatnonzero(chosen), "not selected": np.flatnonzero(~chosen)}, "selection"
    return {"": np.arange(run.rows)}, None
