"""A method run in memory: its stages over all rows, a slice at a time, with one progress over each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.engine.token_progress import ProgressLike
from instsel.methods.method import Method, Outcome
from instsel.methods.parameters import Parameters, examples_of, fields_of, now, numbers_of_column, replaced
from instsel.methods.refused_rows import refused_rows
from instsel.methods.stage_loop import SliceWorkers, run_stages
from instsel.methods.stages import UNREADABLE, Columns, Stage, StageSlice, columns_for
from instsel.prompts import is_chat_template
from instsel.prompts.automatic_template import AUTO, automatic_template, told
from instsel.records import Unreadable, open_rows, to_examples, to_groups
from instsel.records.examples import ReadRow
from instsel.records.row_sources import Batches
from instsel.records.unread_keys import UnreadKeys

if TYPE_CHECKING:
    from instsel.engine.scorer_protocol import ScorerProtocol

P = TypeVar("P", bound=Parameters)


def run_in_memory(
    method: Method[P], scorer: ScorerProtocol, rows: Iterable[object], parameters: P, *, whole_pool: bool = True
) -> Outcome[P]:
    """Run all stages of a method over rows; raises what scoring raises.

    Rows that cannot be read, or that the template refuses, are warned of and have the status "unreadable". Where all
    are such, it raises what is said of the first, unless the rows are a batch of more (`whole_pool=False`).
    """
    _check_scorers(scorer, parameters)
    if isinstance(rows, Iterator):
        rows = list(rows)
    parameters = _with_columns(parameters, rows)
    read = to_groups if method.rows == "group" else to_examples
    unread = UnreadKeys()
    records: list[Any] = read(rows, columns=parameters.columns, unread=unread, on_error="status")
    count = len(records)
    parameters = _with_template(parameters, scorer, records)
    for row, reason in refused_rows(dict(enumerate(records)), parameters, scorer, unread).items():
        records[row] = Unreadable(reason)
    unread.warn()
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
    store = _MemoryStore(method, _with_functions(parameters, records).for_rows(count), scorer, records)
    run_stages(store, scorer)
    columns = {name: values for part in store.known.values() for name, values in part.items()}
    return Outcome(columns, store.parameters, count, store.stats)


def _check_scorers(scorer: object, parameters: Parameters) -> None:
    """TypeError for a scorer, or another one of the parameters, that is none."""
    from instsel.engine.scorer_protocol import check_scorer

    check_scorer(scorer)
    for name, _, spec in fields_of(type(parameters)):
        given = getattr(parameters, name)
        if spec.kind in ("model", "models") and given is not None:
            for one in given if spec.kind == "models" else [given]:
                check_scorer(one, name)


def _with_template(parameters: P, scorer: ScorerProtocol, records: Sequence[ReadRow]) -> P:
    """The parameters with a template in place of "auto", and with a date for one that tells the date."""
    if not parameters.uses_template:
        return replaced(parameters, template="plain") if parameters.template == AUTO else parameters
    if parameters.template == AUTO:
        conversations = any(record.in_turns for record in records)
        takes_chat = parameters.takes_chat_template
        template, reason = automatic_template(scorer.tokenizer, conversations=conversations, takes_chat=takes_chat)
        parameters = replaced(parameters, template=template)
        if template == "chat":
            warnings.warn(told(template, reason), stacklevel=4)
    if parameters.template_date is None and is_chat_template(parameters.template):
        parameters = replaced(parameters, template_date=now())
    return parameters


Found = tuple[Columns, ScoreStats]


def unpacked(stage: str, rows: range, columns: Columns, stats: ScoreStats, seconds: float) -> Found:
    """A slice's columns and their cost as they are."""
    return columns, stats


class _MemoryStore(Generic[P]):
    """Rows and columns of a run in memory."""

    pack = staticmethod(unpacked)

    def __init__(self, method: Method[P], parameters: P, scorer: ScorerProtocol, records: Sequence[object]) -> None:
        self.method, self.parameters, self.scorer, self.records = method, parameters, scorer, records
        self.count = len(records)
        self.known: dict[str, Columns] = {}
        self.stats = ScoreStats()
        self._parts: dict[int, Columns] = {}  # of the open stage, by their first row
        self._progress = _StageProgress(None, 0)

    @contextmanager
    def open(self, stage: Stage[P], workers: SliceWorkers | None) -> Iterator[list[range]]:
        """See `StageStore`: nothing is there yet. A stage without rows is one empty slice, which gives its columns."""
        length = stage.length(self.parameters, self.count)
        step = rows_at_a_time(stage, length, 1 if workers is None else workers.size)
        self._parts = {}
        with _StageProgress(self.parameters.progress, length, silent=workers is not None) as self._progress:
            yield [range(start, min(start + step, length)) for start in range(0, max(length, 1), step)]
        parts = [self._parts[start] for start in sorted(self._parts)]
        self.known[stage.name] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def part(self, stage: Stage[P], rows: range) -> StageSlice[P]:
        """See `StageStore`."""
        part = StageSlice(rows, self.count, self.parameters, self.scorer, {}, columns_for(stage, rows, self.known))
        part.examples = {row: self.records[row] for row in stage.needed(part)}
        part.progress = self._progress.of(rows)
        return part

    def whole_columns(self, stage: Stage[P]) -> Columns:
        """See `StageStore`."""
        return columns_for(replace(stage, reads=()), range(0), self.known)

    def keep(self, rows: range, packed: Found) -> None:
        """See `StageStore`."""
        self._parts[rows.start], cost = packed
        self.stats += cost
        self._progress.done(rows, cost.tokens_forwarded)


def rows_at_a_time(stage: Stage, length: int, workers: int = 1) -> int:
    """Rows in a slice of a stage of `length` rows; fewer where several workers would not all have some."""
    if stage.whole:
        return max(length, 1)
    if workers == 1 or length >= 2 * workers * stage.slice_rows:
        return stage.slice_rows
    return min(stage.slice_rows, max(-(-length // (4 * workers)), 16))


class _StageProgress:
    """The progress of a stage whose later slices' tokens are not known yet: reckoned from the rows done so far.

    `silent` slices are heard of only when they are through.
    """

    def __init__(self, progress: ProgressLike, num_rows: int, *, silent: bool = False) -> None:
        self.progress, self.num_rows, self.silent, self.before, self.rows = progress, num_rows, silent, 0, 0
        self.bar: Any = None

    def __enter__(self) -> _StageProgress:
        if self.progress is True:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=1, unit="tok", unit_scale=True, delay=3.0, dynamic_ncols=True)
        return self

    def __exit__(self, *error: object) -> None:
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

    def done(self, rows: range, tokens: int) -> None:
        """A slice is through."""
        self.rows += len(rows)
        report = self.of(range(self.rows)) if self.silent else None
        if report is not None:
            report(tokens, tokens)
        self.before += tokens


def _with_columns(parameters: P, rows: Iterable[object]) -> P:
    """Parameters that name a column of the rows, with its numbers in place of the name; rows as examples."""
    values: dict[str, object] = {}
    for name, _, spec in fields_of(type(parameters)):
        given = getattr(parameters, name)
        if spec.kind == "rows" and given is not None:
            values[name] = examples_of(name, given, parameters.columns)
        if spec.kind == "numbers" and isinstance(given, str) and given not in spec.choices:
            names, batches = open_rows(rows)

            def read(column: str, batches: Batches = batches) -> list[object]:
                return [row.get(column) for batch in batches for row in batch]

            values[name] = numbers_of_column(name, given, spec.choices, names, read)
    return replaced(parameters, **values)


def _with_functions(parameters: P, records: Sequence[object]) -> P:
    """Parameters that are functions of the examples, with the numbers that they give."""
    values = {
        name: getattr(parameters, name)(records)
        for name, _, spec in fields_of(type(parameters))
        if spec.kind == "numbers" and callable(getattr(parameters, name))
    }
    return replaced(parameters, **values)
