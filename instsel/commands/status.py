"""`instsel status DIR`: how far a run is, what it was run with, how long it will take; reads, never writes."""

from __future__ import annotations

import argparse
import collections
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.commands.arguments import Subcommands
from instsel.commands.summary import duration, summary_lines
from instsel.runs.finished_run import RunReader, read_run
from instsel.runs.lock import Holder, running_holder
from instsel.runs.manifest import read_manifest
from instsel.runs.run_files import MANIFEST, NEXT, SHARDS
from instsel.runs.run_status import StageStatus, WorkerStatus, read_run_status
from instsel.runs.shards import infos
from instsel.terminal import escaped, say

if TYPE_CHECKING:
    from instsel.runs.interrupts import Interrupts

_HIDDEN = ("format", "version", "method")  # said elsewhere


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("status", help="progress, counts and settings of a run folder")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Print the status of a run folder."""
    run = read_run(args.folder)
    holder = running_holder(args.folder)
    _say_run(run, holder)
    if run.place(MANIFEST).parent == args.folder:
        new, _ = read_manifest(args.folder / NEXT)
        if new is not None:
            say("\nIt is being overwritten; until this is whole, the folder is the run above:")
            _say_run(RunReader(args.folder / NEXT, new), holder)
    return 0


def _say_run(run: RunReader, holder: Holder | None) -> None:
    manifest, folder = run.manifest, run.place(SHARDS).parent
    state = manifest.get("state", "unknown")
    if holder is not None and state != "finished":
        state = f"running ({holder})"
    elif state == "running":
        state = "stopped without a word (killed?); the same command continues"
    say(f"{escaped(str(run.folder))}: {escaped(manifest['method'])}, {escaped(state)}")
    stages = [_read_stage(folder, stage.name, stage.rows) for stage in run.stages()]
    for stage in stages:
        say(_stage_line(stage))
    if holder is not None:
        running, workers = read_run_status(folder)
        for line in _running_lines(running, stages, manifest.get("stages_to_come", [])):
            say(line)
        for line in _worker_lines(workers):
            say(line)
    for line in summary_lines(manifest)[1:] if manifest.get("state") == "finished" else []:
        say(line)
    say(f"input: {escaped(str(manifest.get('input')))} ({manifest.get('rows', 0):,} rows)")
    say(f"model: {escaped(str(manifest.get('model')))}")
    settings = {name: manifest.get(name) for name in manifest.get("compared", ()) if name not in _HIDDEN}
    for name, value in settings.items():
        told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        say(f"  {escaped(name):<18}{escaped(told)}")


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a stage's shards say: rows that are done, statuses, and cost."""

    name: str
    rows: int
    done: int
    counts: Mapping[str, int]
    stats: Mapping[str, float]

    def seconds_left(self) -> float | None:
        """At the rate so far; None where nothing is known of it yet."""
        if self.done >= self.rows:
            return 0.0
        seconds = self.stats.get("wall_seconds", 0.0)
        return (self.rows - self.done) * seconds / self.done if self.done and seconds else None


def _read_stage(folder: Path, name: str, rows: int) -> _Stage:
    counts: collections.Counter[str] = collections.Counter()
    stats: collections.Counter[str] = collections.Counter()
    done = 0
    for info in infos(folder / "shards", name):
        done += info.num_rows
        counts.update(info.counts)
        stats.update(info.stats)
    return _Stage(name, rows, done, counts, stats)


def _stage_line(stage: _Stage) -> str:
    line = f"  {stage.name}: {stage.done:,} of {stage.rows:,} rows ({stage.done / max(stage.rows, 1):.1%})"
    seconds = stage.stats.get("wall_seconds", 0.0)
    if stage.done and seconds:
        line += f", {stage.done / seconds:,.1f} rows/s"
        if stage.stats.get("tokens_forwarded"):
            line += f", {stage.stats['tokens_forwarded'] / seconds:,.0f} tokens/s"
        if left := stage.seconds_left():
            line += f", about {duration(left)} left"
    if stage.counts:
        line += "; " + ", ".join(f"{n:,} {escaped(status)}" for status, n in sorted(stage.counts.items()))
    return line


def _running_lines(running: StageStatus | None, stages: Sequence[_Stage], to_come: Sequence[str]) -> list[str]:
    """Which stage runs, since when and how far it is, its slices under way included; and the time left over all."""
    if not stages:
        return ["  no stage has begun: rows are read and checked, or the model loads"]
    left = {stage.name: stage.seconds_left() for stage in stages}
    lines = []
    if running is not None and running.stage == stages[-1].name and running.done < running.rows:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(min(max(running.began, 0), 2**32)))
        line = f"  {escaped(running.stage)} runs since {began} UTC ({duration(time.time() - running.began)}): "
        line += f"about {running.done:,.1f} of {running.rows:,} rows"
        if (seconds := running.seconds_left()) is not None:
            left[running.stage] = seconds
            line += f", about {duration(seconds)} left"
        lines.append(line)
    return [*lines, *filter(None, [_left_line(left, to_come)])]


def _left_line(left: Mapping[str, float | None], to_come: Sequence[str]) -> str:
    """Time left over all stages; those of which nothing is done have no rate yet, and are named."""
    known = sum(seconds for seconds in left.values() if seconds is not None)
    unknown = [*(name for name, seconds in left.items() if seconds is None), *to_come]
    said = [f"about {duration(known)}"] if known else []
    if unknown:
        said.append(f"{', '.join(unknown)}, of which nothing is done yet")
    return f"  left over all: {escaped(' and '.join(said))}" if said else ""


def _worker_lines(workers: Sequence[WorkerStatus]) -> list[str]:
    """One line a worker: where it is, how fast it is, what it is doing, how often it died."""
    lines = []
    for number, worker in enumerate(workers):
        line = f"  worker {number} on {escaped(str(worker.get('place')))}"
        if "pid" in worker:
            line += f" (process {escaped(str(worker['pid']))} on {escaped(str(worker.get('host')))})"
        line += f": {escaped(str(worker.get('state')))}; {worker.get('rows', 0):,} rows"
        if worker.get("seconds"):
            line += f", {worker['rows'] / worker['seconds']:,.1f} rows/s"
        if worker.get("deaths"):
            line += f", died {worker['deaths']} times"
        lines.append(line)
    return lines
