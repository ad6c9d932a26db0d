"""`instsel merge DIR`: the result of a complete run as one file, without its model or its input."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import add_options
from instsel.runner.row_checks import with_reasons
from instsel.runs import RunError
from instsel.runs.arguments import files_named_by
from instsel.runs.durable_files import remove_unfinished
from instsel.runs.finished_run import RunReader, read_run
from instsel.runs.lock import RunLock
from instsel.runs.manifest import write_manifest
from instsel.runs.merged_output import FORMATS, write_merged
from instsel.runs.overwriting import take_place
from instsel.runs.results import describe_result
from instsel.runs.run_files import resolved
from instsel.runs.shards import damaged_or_gone, how_to_repair
from instsel.terminal import escaped, say


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("merge", help="write a complete run's shards as one file again")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to; default DIR/scores.FORMAT")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_options(parser, "quiet")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: object) -> int:
    """Merge a run's shards."""
    target = args.output or args.folder / f"scores.{args.format}"
    if target.suffix != f".{args.format}":
        raise ValueError(f"--output {target}: expected a name that ends with .{args.format}, as --format says")
    within = resolved(target.parent) == resolved(args.folder)
    run = read_run(args.folder)
    _check_target(target, run, args)
    if not within:
        rows, _ = _merge(run, target)
    else:  # a file of the run folder: who writes there holds its lock
        lock = RunLock(args.folder)
        lock.acquire()
        try:
            take_place(args.folder)
            run = read_run(args.folder)
            rows, own = _merge(run, target)
            if (run.manifest.get("output") or {}).get("name") == target.name:  # the result that its digest is of
                write_manifest(args.folder, {**run.manifest, "output": describe_result(target, own)})
        finally:
            lock.release()
    if not args.quiet:
        say(f"written: {escaped(str(target))} ({rows:,} rows)")
    return 0


def _check_target(target: Path, run: RunReader, args: argparse.Namespace) -> None:
    """ValueError where the file must not be written."""
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent} is not a folder")
    if not os.path.lexists(target):
        return
    if args.output is not None and not args.overwrite:
        raise ValueError(f"{target} exists; name another --output or give --overwrite")
    own, file = resolved(args.folder), resolved(target)
    if own in file.parents and file != own / f"scores.{args.format}":
        raise ValueError(f"--output {target} is a file of the run: name another")
    if not target.is_file():
        raise ValueError(f"--output {target} is not a regular file: name another")
    if any(target.samefile(path) for path in files_named_by(run.manifest.get("arguments", {}))):
        raise ValueError(f"--output {target} is what the run was made from: name another")


def _merge(run: RunReader, target: Path) -> tuple[int, dict[str, str]]:
    """Write the file; gives its number of rows, and what it calls each of our columns."""
    stages = run.stages()
    if run.manifest.get("stages_complete") is not True or not stages or "columns" not in run.manifest:
        raise ValueError(f"{run.folder} is not complete; the command that made it continues it (see instsel status)")
    last, shards = stages[-1], run.shards()
    if missing := last.missing(shards.look(last)[0]):
        raise ValueError(damaged_or_gone(last, missing, run.folder))
    store = run.kept_rows()
    if store is None:
        raise ValueError(f"the rows kept in {run.folder} are damaged or gone: {how_to_repair(run.folder)}")
    if len(store) != last.rows:
        raise ValueError(f"the manifest of {run.folder} is damaged; the command that made the run repairs it")
    try:
        remove_unfinished(target.parent)
        scores = with_reasons(lambda: shards.tables(last), store, run.manifest)
        told = run.manifest
        own = write_merged(
            target.parent, target.name, store, scores, columns=told["columns"], mapping=told.get("column_mapping")
        )
    except OSError as error:
        raise RunError(f"cannot write {target}: {error.strerror or error}; what was there is as it was") from error
    return last.rows, own
