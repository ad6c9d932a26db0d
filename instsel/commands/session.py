"""What a method's stages work with in a run folder: the input's rows, the scorer, the folder, the progress bar."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from instsel.commands.method_flags import read_parameters
from instsel.commands.worker_options import open_pool, wants_workers
from instsel.methods.method import Method
from instsel.methods.parameters import numbers_of_column
from instsel.methods.stages import Columns, Slice, columns_for
from instsel.methods.stages import Stage as MethodStage
from instsel.parallel.row_references import RowReader, RowReference
from instsel.records.formats import Layout
from instsel.records.unread_keys import UnreadKeys
from instsel.runs import RunFolder
from instsel.runs.interrupts import Interrupts
from instsel.runs.progress import StageProgress
from instsel.runs.row_store import RowStore
from instsel.runs.shards import PackedShard, ShardInfo, Stage
from instsel.runs.stage_columns import StageColumns
from instsel.runs.worker_notes import WorkerNotes

if TYPE_CHECKING:
    from instsel.engine.results import ScoreStats
    from instsel.engine.scorer import Scorer
    from instsel.parallel.pool import Pool

_WHOLE_ROWS = 8192  # in a shard of a stage that is computed at once
_COLUMN_ROWS = 4096  # rows read at a time for one of their columns


class Session:
    """One run of a method, from opening the input to the last shard."""

    def __init__(
        self,
        method: Method[Any],
        args: argparse.Namespace,
        rows: RowStore,
        columns: list[str],
        layout: Layout,
        interrupts: Interrupts,
    ) -> None:
        self.method, self.args, self.rows, self.layout, self.interrupts = method, args, rows, layout, interrupts
        self.reader = RowReader(method.rows, args.columns, layout)
        self.columns_present = columns
        self.folder: RunFolder | None = None
        self._scorer: Scorer | None = None
        self._pool: Pool | None = None
        self._notes: WorkerNotes | None = None
        self._progress: StageProgress | None = None
        self._known: dict[str, StageColumns] = {}  # whole columns of stages that later ones read
        self.parameters = read_parameters(method, args, self.open_scorer, self._column).for_rows(len(rows))
        self.stages = method.stages_for(self.parameters)
        self.lengths = {stage.name: stage.length(self.parameters, len(rows)) for stage in self.stages}

    @property
    def scorer(self) -> Scorer:
        """The scorer that the flags describe, or its workers; its weights load when first needed."""
        if self._pool is not None:
            return self._pool
        if self._scorer is None:
            self._scorer = self.open_scorer(self.args.model, self.args.revision)
        return self._scorer

    @contextlib.contextmanager
    def workers(self) -> Iterator[None]:
        """A block in which the workers that the flags ask for stand for the scorer; none where they ask for none."""
        if not wants_workers(self.args):
            yield
            return
        assert self.folder is not None
        with open_pool(self.args, self.scorer, self.rows.path) as pool:
            self._pool, self._notes = pool, WorkerNotes(self.folder.path, pool.told)
            try:
                self._notes.note(now=True)
                yield
            finally:
                self._notes.note(now=True)
                self._pool = None

    @property
    def resolved(self) -> dict[str, str]:
        """What device and dtype the model has come to, and over how many processes it is divided."""
        ranks = {"tensor_parallel": str(self.args.tensor_parallel or 1)}
        if self._pool is not None:
            return {**self._pool.resolved, **ranks}
        model = self.scorer.model
        return {"device": model.device.type, "dtype": str(model.dtype).removeprefix("torch."), **ranks}

    @property
    def arithmetic(self) -> str:
        """By what the model's numbers are computed."""
        return self._pool.arithmetic if self._pool is not None else self.scorer.model.arithmetic_by()

    def open_scorer(self, model: str, revision: str | None = None) -> Scorer:
        """A scorer of a model, with the device and dtype that the flags say."""
        return open_scorer(self.args, model, revision)

    def numbered(self, numbers: Iterable[int], unread: UnreadKeys | None = None) -> dict[int, Any]:
        """Some rows as examples, or as groups, by their number; `unread` gathers what is not part of the prompt."""
        return self.reader.read(self.rows, numbers, unread)

    def leave_out(self, refused: Mapping[int, str]) -> None:
        """Rows that the template refuses, and why: from now on they count as such that cannot be read."""
        self.reader = replace(self.reader, refused=refused)

    def _column(self, parameter: str, name: str, words: tuple[str, ...]) -> Any:
        """The numbers of a column of the input."""

        def read(column: str) -> list[Any]:
            starts = range(0, len(self.rows), _COLUMN_ROWS)
            return [row.get(column) for start in starts for row in self.rows.rows(start, start + _COLUMN_ROWS)]

        return numbers_of_column(parameter, name, words, self.columns_present, read)

    def tokens(self, done: int, total: int) -> None:
        """The progress callback for `score_batch`; a signal is noticed here if a library swallowed it."""
        self.interrupts.check()
        if self._progress is not None:
            self._progress.tokens(done, total)

    def slice(
        self, stage: MethodStage[Any], rows: range, known: Mapping[str, Mapping[str, np.ndarray]] | None = None
    ) -> Slice[Any]:
        """The slice of a stage that its function is given, with its columns and examples."""
        if known is None:
            known = {name: self.columns(name) for name in (*stage.reads, *stage.reads_whole) if name in self.lengths}
        with contextlib.nullcontext() if self.folder is None else self.folder.explained():
            columns = columns_for(stage, rows, known)  # of a run folder they are read only now
        part = Slice(rows, len(self.rows), self.parameters, self.scorer, {}, columns, self.tokens)
        if self._pool is not None and self._pool.sees_disk and stage.is_divided:
            needed = stage.needed(part)
            path = str(self.rows.path.absolute())
            part.examples = cast(Any, RowReference(path, needed, self.reader.for_rows(needed)))
        else:
            part.examples = self.numbered(stage.needed(part))
        return part

    def shards_of(self, stage: MethodStage[Any]) -> Stage:
        """A stage of the method as the run folder keeps it."""
        length = self.lengths[stage.name]
        asked = self.args.shard_rows if length == len(self.rows) else None
        shard_rows = asked or (max(stage.slice_rows, _WHOLE_ROWS) if stage.whole else stage.slice_rows)

        def compute(rows: range) -> tuple[Columns, dict[str, float]]:
            part = self.slice(stage, rows)
            return self.method.checked(stage, part, stage.compute(part)), stats_of(part.stats)

        if not stage.whole:
            return Stage(stage.name, length, shard_rows, compute)
        # Its rows depend on all rows: computed at once, when the first missing shard is asked for.
        found = functools.cache(lambda: compute(range(length)))
        spent: list[dict[str, float]] = []

        def part_of(rows: range) -> tuple[Columns, dict[str, float]]:
            columns, cost = found()
            spent.append(cost)
            cut = {name: values[rows.start : rows.stop] for name, values in columns.items()}
            return cut, cost if len(spent) == 1 else {}

        return Stage(stage.name, length, shard_rows, part_of)

    def run(self, stage: MethodStage[Any]) -> Stage:
        """Compute what a stage lacks, with a bar; gives it as the folder keeps it."""
        folder, shards = self.folder, self.shards_of(stage)
        assert folder is not None
        divided = self._pool is not None and stage.is_divided
        spread = functools.partial(self._spread, cast(Any, self._pool), stage) if divided else None
        folder.run(shards, on_start=self._begin, on_shard=self._end, spread=spread)
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        return shards

    def _spread(
        self, pool: Pool, stage: MethodStage[Any], missing: Iterator[range]
    ) -> Iterator[tuple[range, PackedShard]]:
        """Shards of a stage computed by workers, as they come."""
        assert self.folder is not None
        known = {name: self.columns(name) for name in stage.reads_whole if name in self.lengths}
        whole = columns_for(replace(stage, reads=()), range(0), known)
        parts = (self.slice(stage, rows) for rows in missing)
        yield from pool.run_slices(self.method, stage, parts, whole, settings=self.folder.shards.settings)

    def _begin(self, stage: Stage, rows: range, done_rows: int) -> None:
        if self._progress is None:
            self._progress = StageProgress(stage.name, stage.rows, done_rows=done_rows, quiet=self.args.quiet)
        self._progress.begin(rows)

    def _end(self, stage: Stage, rows: range, info: ShardInfo) -> None:
        if self._notes is not None:
            self._notes.note()
        if self._progress is not None:
            if self._pool is not None:
                self._progress.begin(rows)
                self._progress.tokens(*[int(info.stats.get("tokens_forwarded", 0))] * 2)
            self._progress.end()

    def columns(self, name: str) -> StageColumns:
        """The whole columns of a stage that has run, read when they are asked for."""
        assert self.folder is not None
        if name not in self._known:
            stage = next(stage for stage in self.stages if stage.name == name)
            self._known[name] = self.folder.shards.columns(self.shards_of(stage))
        return self._known[name]

    def forget(self, name: str) -> None:
        """Give up the columns of the stages that no stage after `name` reads."""
        names = [stage.name for stage in self.stages]
        later = self.stages[names.index(name) + 1 :]
        read = {one for stage in later for one in (*stage.reads, *stage.reads_whole)}
        for unread in set(self._known) - read:
            self._known.pop(unread).forget()


def open_scorer(args: argparse.Namespace, model: str, revision: str | None = None) -> Scorer:
    """A scorer of a model, with the device, dtype and backend that the flags say."""
    from instsel.engine.scorer import Scorer

    return Scorer(
        model,
        device=args.device,
        dtype=args.dtype,
        backend=args.backend,
        max_batch_tokens=args.max_batch_tokens,
        revision=revision,
        trust_remote_code=args.trust_remote_code,
        device_map=args.device_map,
        context_length=args.context_length,
        allow_unused_weights=args.allow_unused_weights,
    )


def stats_of(stats: ScoreStats) -> dict[str, float]:
    """The cost of a batch as a shard keeps it."""
    return {name: getattr(stats, name) for name in stats.__slots__}
