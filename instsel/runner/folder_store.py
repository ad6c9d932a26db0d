"""A run's stages in its folder: slices of the input's rows and of earlier shards, results as shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from instsel.error_text import type_and_first_line
from instsel.methods.method import Method
from instsel.methods.parameters import Parameters
from instsel.methods.stage_loop import SliceWorkers
from instsel.methods.stages import Columns, Stage, StageSlice, columns_for
from instsel.runner.input_rows import InputRows
from instsel.runner.shard_packer import ShardPacker
from instsel.runner.slices import Slices
from instsel.runs import RunError, RunFolder
from instsel.runs.progress import StageProgress
from instsel.runs.run_status import RunStatusFile
from instsel.runs.shards import PackedShard
from instsel.runs.shards import ShardedStage as Shards
from instsel.runs.stage_columns import StageColumns

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer_protocol import ScorerProtocol


class FolderStore:
    """See `StageStore`. `scorer` may be a pool of workers; `status_file` is written with what runs."""

    def __init__(
        self,
        method: Method,
        parameters: Parameters,
        inputs: InputRows,
        folder: RunFolder,
        scorer: ScorerProtocol,
        status_file: RunStatusFile,
        *,
        shard_rows: int | None = None,
        quiet: bool = False,
    ) -> None:
        self.method, self.parameters, self.count = method, parameters, len(inputs)
        self.stages: dict[str, Shards] = {}  # that the parameters call for, and of these `begun` are computed or open
        self.begun: list[Shards] = []
        self.pack = ShardPacker(folder.shards.settings)
        self._inputs, self._folder, self._scorer, self._status_file = inputs, folder, scorer, status_file
        self._quiet = quiet
        self._workers: SliceWorkers | None = None
        self._under_way: list[range] = []  # slices of the open stage that were asked for and are not kept yet
        self._progress: StageProgress | None = None
        self._known: dict[str, StageColumns] = {}  # whole columns of stages that later ones read
        self._called_for = method.stages_for(parameters)
        for stage in self._called_for:
            self.stages[stage.name] = Shards(stage.name, stage.length(parameters, self.count))
        device = folder.manifest.get("resolved", {}).get("device", "cpu")
        self._slices = Slices(scorer, self.count, shard_rows, device, parameters.max_length)

    @contextlib.contextmanager
    def open(self, stage: Stage, workers: SliceWorkers | None) -> Iterator[Iterator[range]]:
        """See `StageStore`. Errors that say nothing of the input, the settings or the machine become RunError."""
        shards = self.stages[stage.name]
        self.begun.append(shards)
        to_come = list(self.stages)[len(self.begun) :]
        self._folder.save(stages=[[one.name, one.rows] for one in self.begun], stages_to_come=to_come)
        missing = self._folder.missing(shards)
        self._under_way = []
        self._workers = workers
        self.pack = replace(self.pack, workers=1 if workers is None else workers.size)
        if missing:
            done = shards.rows - sum(map(len, missing))
            self._progress = StageProgress(shards.name, shards.rows, done_rows=done, quiet=self._quiet)
            self._status_file.begin(shards.name, shards.rows, done)
        try:
            yield self._slices.of(stage, shards.rows, missing, partial(self._requests, stage))
        except (RunError, ValueError, TypeError, ImportError, OSError, MemoryError):
            raise  # of the input, the settings or the machine: the text says which
        except Exception as error:  # of a kernel, a driver, a library, somebody's own method
            where = stage.name
            if self._under_way:
                where += f", rows {self._under_way[0].start} to {self._under_way[0].stop - 1}"
            raise RunError(
                f"{getattr(error, 'where', where)}: {type_and_first_line(error)}; "
                "what is whole is kept, and the same command continues"
            ) from error
        finally:
            if self._progress is not None:
                self._progress.close()
                self._progress = None
        self._forget()

    def part(self, stage: Stage, rows: range) -> StageSlice:
        """See `StageStore`."""
        self._folder.interrupts.check()
        self._under_way.append(rows)
        if self._progress is not None:
            self._progress.begin(rows)
        part = self._part(stage, rows)
        needed = stage.needed(part)
        seen = self._workers is not None and self._workers.sees_disk
        part.examples = self._inputs.refer(needed) if seen else self._inputs.read(needed)
        return part

    def _requests(self, stage: Stage, rows: range) -> list[Request]:
        """What some rows of a stage would score."""
        assert stage.requests is not None
        part = self._part(stage, rows)
        part.examples = self._inputs.read(stage.needed(part))
        return stage.requests(part)

    def _part(self, stage: Stage, rows: range) -> StageSlice:
        """A slice whose examples are still to be given."""
        known = self._columns((*stage.reads, *stage.reads_whole))
        with self._folder.explained():
            columns = columns_for(stage, rows, known)  # they are read only now
        return StageSlice(rows, self.count, self.parameters, self._scorer, {}, columns, self._tokens)

    def whole_columns(self, stage: Stage) -> Columns:
        """See `StageStore`."""
        return columns_for(replace(stage, reads=()), range(0), self._columns(stage.reads_whole))

    def keep(self, rows: range, packed: PackedShard) -> None:
        """See `StageStore`."""
        self._folder.write(self.begun[-1], rows, packed)
        if rows in self._under_way:  # not where a stage was computed at once
            self._under_way.remove(rows)
        if self._progress is not None:
            self._progress.end(rows, int(packed.info.stats.get("tokens_forwarded", 0)))
            self._status_file.advance(self._progress.rows_done)

    def columns(self, name: str) -> StageColumns:
        """The whole columns of a stage that has run, read when they are asked for."""
        if name not in self._known:
            self._known[name] = self._folder.shards.columns(self.stages[name])
        return self._known[name]

    def _columns(self, names: Iterable[str]) -> dict[str, StageColumns]:
        return {name: self.columns(name) for name in names if name in self.stages}

    def _tokens(self, done: int, total: int) -> None:
        """The progress of a slice; a signal is noticed here if a library swallowed it."""
        self._folder.interrupts.check()
        if self._progress is not None:
            self._progress.tokens(done, total)
            self._status_file.advance(self._progress.rows_done)

    def _forget(self) -> None:
        """Give up the columns of the stages that no later stage reads."""
        later = self._called_for[len(self.begun) :]
        read = {one for stage in later for one in (*stage.reads, *stage.reads_whole)}
        for unread in set(self._known) - read:
            self._known.pop(unread).forget()
