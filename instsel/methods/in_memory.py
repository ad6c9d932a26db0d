"""A method run in memory: its stages over all rows, a slice at a time, with one progress over each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.engine.token_progress import ProgressLike
from instsel.methods.method import Method, Outcome
from instsel.methods.parameters import Parameters, examples_of, fields_of, now, numbers_of_column, replaced
from instsel.methods.refused_rows import refused_rows
from instsel.methods.stages import UNREADABLE, Columns, Slice, Stage, columns_for
from instsel.prompts import is_chat_template
from instsel.records import Unreadable, open_rows, to_examples, to_groups

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer

P = TypeVar("P", bound=Parameters)


def run_in_memory(
    method: Method[P], scorer: Scorer, rows: Any, parameters: P, *, whole_pool: bool = True
) -> Outcome[P]:
    """Run all stages of a method over rows; raises what scoring raises.

    Rows that cannot be read, or that the template refuses, are warned of and have the status "unreadable". Where all
    are such, it raises what is said of the first, unless the rows are a batch of more (`whole_pool=False`).
    """
    if isinstance(rows, Iterator):
        rows = list(rows)
    parameters = _with_columns(parameters, rows)
    if parameters.template_date is None and is_chat_template(parameters.template):
        parameters = replaced(parameters, template_date=now())
    read = to_groups if method.rows == "group" else to_examples
    records: list[Any] = read(rows, columns=parameters.columns, on_error="status")
    count = len(records)
    for row, reason in refused_rows(dict(enumerate(records)), parameters, scorer).items():
        records[row] = Unreadable(reason)
    unreadable = [row for row, record in enumerate(records) if isinstance(record, Unreadable)]
    if whole_pool and count and len(unreadable) == count:
        read(rows, columns=parameters.columns)
        raise ValueError(f"row 0 (counting from 0): {records[0].reason}")
    if unreadable:
        warnings.warn(
            f"{len(unreadable):,} of {count:,} rows cannot be read and have the status {UNREADABLE!r}; the first is "
            f"row {unreadable[0]} (counting from 0): {records[unreadable[0]].reason}",
            stacklevel=3,
        )
    parameters = _with_functions(parameters, records).for_rows(count)
    known: dict[str, Columns] = {}
    stats = ScoreStats()
    for stage in method.stages_for(parameters):
        known[stage.name], cost = _run_stage(method, stage, parameters, scorer, records, known)
        stats += cost
    columns = {name: values for part in known.values() for name, values in part.items()}
    return Outcome(columns, parameters, count, stats)


def _run_stage(
    method: Method[P],
    stage: Stage[P],
    parameters: P,
    scorer: Scorer,
    records: Sequence[Any],
    known: Mapping[str, Columns],
) -> tuple[Columns, ScoreStats]:
    length = stage.length(parameters, len(records))
    whole = columns_for(replace(stage, reads=()), range(0), known)

    def part_of(rows: range) -> Slice[P]:
        part = Slice(rows, len(records), parameters, scorer, {}, columns_for(stage, rows, known))
        part.examples = {row: records[row] for row in stage.needed(part)}
        return part

    pool: Any = scorer if hasattr(scorer, "run_slices") else None  # workers, which compute slices themselves
    if not stage.is_divided or (pool is not None and not pool.can_run(method)):
        pool = None
    step = rows_at_a_time(stage, length, 1 if pool is None else pool.size)
    slices = [range(start, min(start + step, length)) for start in range(0, max(length, 1), step)]
    parts: dict[int, Columns] = {}
    stats = ScoreStats()
    with _StageProgress(parameters.progress, length) as progress:
        if pool is not None:
            with closing(pool.run_slices(method, stage, map(part_of, slices), whole)) as found:
                for rows, (columns, cost) in found:
                    parts[rows.start] = columns
                    stats += cost
                    progress.skip(rows, cost.tokens_forwarded)
            slices = []
        for rows in slices:
            part = part_of(rows)
            part.progress = progress.of(rows)
            parts[rows.start] = method.checked(stage, part, stage.compute(part))
            progress.done(part.stats.tokens_forwarded)
            stats += part.stats
    order = sorted(parts)
    return {name: np.concatenate([parts[start][name] for start in order]) for name in parts[order[0]]}, stats


def rows_at_a_time(stage: Stage[Any], length: int, workers: int = 1) -> int:
    """Rows in a slice of a stage of `length` rows; fewer where several workers would not all have some."""
    if stage.whole:
        return max(length, 1)
    if workers == 1 or length >= 2 * workers * stage.slice_rows:
        return stage.slice_rows
    return min(stage.slice_rows, max(-(-length // (4 * workers)), 16))


class _StageProgress:
    """The progress of a stage whose later slices' tokens are not known yet: reckoned from the rows done so far."""

    def __init__(self, progress: ProgressLike, num_rows: int) -> None:
        self.progress, self.num_rows, self.before, self.rows = progress, num_rows, 0, 0
        self.bar: Any = None

    def __enter__(self) -> _StageProgress:
        if self.progress is True:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=1, unit="tok", unit_scale=True, delay=3.0, dynamic_ncols=True)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def of(self, rows: range) -> Callable[[int, int], None] | None:
        """The callback of one slice; None where nobody asked for progress."""
        if not self.progress:
            return None

        def report(done: int, total: int) -> None:
            expected = max(self.before + total, round((self.before + total) * self.num_rows / max(rows.stop, 1)))
            if self.bar is not None:
                self.bar.total = expected
                self.bar.update(self.before + done - self.bar.n)
            elif callable(self.progress):
                self.progress(self.before + done, expected)

        return report

    def skip(self, rows: range, tokens: int) -> None:
        """A slice is through of which nothing was heard before."""
        self.rows += len(rows)
        report = self.of(range(self.rows))
        if report is not None:
            report(tokens, tokens)
        self.done(tokens)

    def done(self, tokens: int) -> None:
        """A slice is through."""
        self.before += tokens


def _with_columns(parameters: P, rows: Any) -> P:
    """Parameters that name a column of the rows, with its numbers in place of the name; rows as examples."""
    values: dict[str, Any] = {}
    for name, _, about in fields_of(type(parameters)):
        given = getattr(parameters, name)
        if about.kind == "rows" and given is not None:
            values[name] = examples_of(name, given, parameters.columns)
        if about.kind == "numbers" and isinstance(given, str) and given not in about.choices:
            names, batches = open_rows(rows)

            def read(column: str, batches: Any = batches) -> list[Any]:
                return [row.get(column) for batch in batches for row in batch]

            values[name] = numbers_of_column(name, given, about.choices, names, read)
    return replaced(parameters, **values)


def _with_functions(parameters: P, records: Sequence[Any]) -> P:
    """Parameters that are functions of the examples, with the numbers that they give."""
    values = {
        name: getattr(parameters, name)(records)
        for name, _, about in fields_of(type(parameters))
        if about.kind == "numbers" and callable(getattr(parameters, name))
    }
    return replaced(parameters, **values)
