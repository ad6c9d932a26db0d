"""What a run would cost, said before it begins: requests planned as they would be scored, and a few of them timed."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from instsel.engine.processors import sharing_processors
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.methods.turn_requests import flat
from instsel.records.unread_keys import UnreadKeys
from instsel.runner.configuration import Messages, RunConfiguration
from instsel.runner.given_parameters import read_parameters
from instsel.runner.input_rows import InputRows, rows_for_now
from instsel.runner.row_checks import check_rows
from instsel.runner.run_settings import settle
from instsel.runner.slices import Slices
from instsel.runner.timing import PlannedStage, time_stages
from instsel.runs.arguments import files_named_by
from instsel.runs.finished_run import RunReader
from instsel.runs.inputs import InputSource
from instsel.runs.manifest import OtherSettingsError, differing_fields, read_manifest
from instsel.runs.overwriting import check_place
from instsel.runs.remote_files import is_address
from instsel.runs.shards import ShardedStage
from instsel.runs.stored_folder import copy_here

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.scorer import Scorer

# Up to so many requests are planned one and all; of more, rows spread evenly over the pool, and the sums scaled up.
PLANNED_REQUESTS = 200_000
SAMPLED_REQUESTS = 16_000
COUNTS = ("sequences", "tokens_forwarded", "tokens_unshared", "packs", "estimated_flops")
STAND_INS = 0.1  # by how much tokens may differ where rows that are shown are chosen by stand-ins


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would take, or what is left of one.

    total    the sums over all stages by name
    failing  rows that cannot be read
    sampled  of which stages few rows were planned, in words
    spread   by how much tokens may differ, relative: 0 where all requests are known
    left     of each stage its rows and how many are left, where a folder has some already
    seconds  the least and the most; None where nothing was timed
    """

    rows: int
    total: dict[str, float]
    sampled: str = ""
    spread: float = 0.0
    left: tuple[tuple[str, int, int], ...] = ()
    seconds: tuple[float, float] | None = None
    failing: int = 0


def plan_run(configuration: RunConfiguration, source: InputSource, messages: Messages, *, timed: bool) -> RunPlan:
    """Check an input's rows, plan every stage, or what a run folder lacks of it, and time a few packs if asked to.

    Nothing is written. Raises ValueError where the run itself would be refused.
    """
    _check_place(configuration, source)
    scorer = configuration.model_options.open_scorer()
    with _folder_of(configuration) as path, rows_for_now(source) as (rows, columns), TemporaryDirectory() as scratch:
        known = None if path is None else read_manifest(path)[0]
        configuration, settings, _ = settle(configuration, source, known, lambda: scorer, messages)
        kept = None if known is None or path is None else RunReader(path, known)
        if kept is not None and (fields := differing_fields(kept.manifest, settings)):
            raise OtherSettingsError(str(configuration.output), fields)
        inputs = InputRows.of(configuration, rows, columns)
        parameters = read_parameters(configuration, inputs.numbers).for_rows(len(inputs))
        unreadable = check_rows(configuration, inputs, parameters, scorer, source, UnreadKeys(), messages)
        plan = _Planner(configuration, parameters, inputs, scorer, messages, kept, Path(scratch)).plan(timed=timed)
        return replace(plan, failing=unreadable["rows"])


def _check_place(configuration: RunConfiguration, source: InputSource) -> None:
    """ValueError where the run would be refused its folder."""
    output = configuration.output
    if output is None or is_address(output):
        return
    if Path(output).is_dir():
        inputs = [*source.files, *files_named_by(configuration.arguments())]
        check_place(Path(output), output, configuration.overwrite, inputs)
    elif os.path.lexists(output):
        raise ValueError(f"output folder {output} cannot be written: it is no folder")


@contextlib.contextmanager
def _folder_of(configuration: RunConfiguration) -> Iterator[Path | None]:
    """A block with the run folder that is there, or a copy of it where it is in a store; None where there is none."""
    output = configuration.output
    if output is None or configuration.overwrite:
        yield None
    elif is_address(output):
        with copy_here(output) as (path, _):
            yield path if path.is_dir() else None
    else:
        yield Path(output) if Path(output).is_dir() else None


@dataclass(slots=True)
class _Planner:
    """Plans one stage after the other.

    Columns of stages that forward nothing are computed, from stand-ins for those of stages that do: so rows that are
    shown to others are chosen as they will be, from texts in place of embeddings.
    """

    configuration: RunConfiguration
    parameters: Parameters
    inputs: InputRows
    scorer: Scorer
    messages: Messages
    kept: RunReader | None
    scratch: Path  # for arrays of the folder's
    _stages: dict[str, Stage] = field(default_factory=dict)
    _whole: dict[str, Mapping[str, np.ndarray]] = field(default_factory=dict)  # columns at all rows
    _stands_in: bool = False

    def plan(self, *, timed: bool) -> RunPlan:
        """The sums over all stages."""
        total: dict[str, float] = dict.fromkeys(COUNTS, 0.0)
        sampled: list[str] = []
        variance = 0.0
        left: list[tuple[str, int, int]] = []
        work: list[PlannedStage] = []
        count = len(self.inputs)
        self._stages = {stage.name: stage for stage in self.configuration.method.stages_for(self.parameters)}
        for stage in self._stages.values():
            length = stage.length(self.parameters, count)
            missing = self._missing(ShardedStage(stage.name, length))
            rows = sum(map(len, missing))
            left.append((stage.name, length, rows))
            if stage.requests is None or not rows:
                continue
            parts = self._rows_to_plan(stage, length, missing)
            planned = sum(map(len, parts))
            sums = np.array([self._plan(stage, part) for part in parts])  # [parts, counts]
            scaled = sums.sum(0) * rows / planned
            for name, value in zip(COUNTS, scaled.tolist(), strict=True):
                total[name] += value
            if scaled[COUNTS.index("tokens_forwarded")]:
                requests = functools.partial(self.requests, stage)
                tokens, flops = (float(scaled[COUNTS.index(name)]) for name in ("tokens_forwarded", "estimated_flops"))
                work.append(PlannedStage(parts, requests, tokens, flops, rows))
            if planned < rows:
                sampled.append(f"{planned:,} of {rows:,} rows of {stage.name}")
                each = sums[:, 1] / [len(part) for part in parts]
                variance += (rows * each.std(ddof=1)) ** 2 / len(parts) if len(parts) > 1 else 0.0
        sampling = 2 * math.sqrt(variance) / max(total["tokens_forwarded"], 1.0)
        spread = math.hypot(STAND_INS if self._stands_in else 0.0, sampling)
        with sharing_processors():
            seconds = time_stages(self.scorer, work, self.parameters.max_length, spread) if timed else None
        if self.kept is None:
            left = []
        return RunPlan(count, total, ", ".join(sampled), spread, tuple(left), seconds)

    def requests(self, stage: Stage, rows: range) -> list[Request]:
        """What rows of a stage will score."""
        assert stage.requests is not None
        return stage.requests(self._part(stage, rows))

    def _plan(self, stage: Stage, rows: range) -> list[float]:
        from instsel.engine.scoring import plan_batch

        self.messages.interrupts.check()
        requests = flat(self.requests(stage, rows))
        plan = plan_batch(self.scorer, requests, max_length=self.configuration.max_length)
        return [getattr(plan, name) for name in COUNTS]

    def _missing(self, stage: ShardedStage) -> list[range]:
        """Which rows the folder lacks; of a stage that it has, the columns are known."""
        if self.kept is None:
            return stage.missing(())
        shards = self.kept.shards(self.scratch)
        missing = stage.missing(shards.look(stage)[0])
        if not missing and stage.rows:
            self._whole[stage.name] = shards.columns(stage)
        return missing

    def _part(self, stage: Stage, rows: range) -> StageSlice:
        """A slice of a stage as a run would have it."""
        found: Columns = {}
        for name in (*stage.reads_whole, *stage.reads):
            found |= self._columns(name, None if name in stage.reads_whole else rows)
        part = StageSlice(rows, len(self.inputs), self.parameters, self.scorer, {}, found)
        part.examples = self.inputs.read(stage.needed(part))
        return part

    def _columns(self, name: str, rows: range | None) -> Mapping[str, np.ndarray]:
        """Columns of a stage at some or all rows: as the folder has them, computed, or stood in for; else none."""
        stage = self._stages.get(name)
        if stage is None or (name not in self._whole and stage.guess is None and stage.requests is not None):
            return {}
        if name not in self._whole and rows is not None and not stage.whole:
            return self._stood_in(stage, rows)
        if name not in self._whole:
            length = stage.length(self.parameters, len(self.inputs))
            step = max(length, 1) if stage.whole else stage.slice_rows
            parts = [self._stood_in(stage, range(i, min(i + step, length))) for i in range(0, max(length, 1), step)]
            self._whole[name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        known = self._whole[name]
        return known if rows is None else {key: values[rows.start : rows.stop] for key, values in known.items()}

    def _stood_in(self, stage: Stage, rows: range) -> Columns:
        self.messages.interrupts.check()
        self._stands_in |= stage.guess is not None
        return (stage.guess or stage.compute)(self._part(stage, rows))

    def _rows_to_plan(self, stage: Stage, length: int, missing: list[range]) -> list[range]:
        """The slices to plan: all that are missing, or few rows each where there are too many requests."""
        rows = np.concatenate([np.arange(gap.start, gap.stop) for gap in missing])
        middle = int(rows[len(rows) // 2])
        each = max(len(self.requests(stage, range(middle, middle + 1))), 1)
        if each * len(rows) <= PLANNED_REQUESTS:
            device = self.scorer.source.resolved_device().type
            asked, limit = self.configuration.shard_rows, self.configuration.max_length
            slices = Slices(self.scorer, len(self.inputs), asked, device, limit)
            return list(slices.of(stage, length, missing, functools.partial(self.requests, stage)))
        count = max(SAMPLED_REQUESTS // each, 8)
        together = max(count // 64, 1)
        places = max(count // together, 2)
        starts = rows[np.unique(np.arange(places) * (len(rows) - together) // (places - 1))].tolist()
        return [range(start, min(start + together, length)) for start in starts]
