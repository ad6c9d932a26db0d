"""`instsel merge DIR`: the result of a complete run as one file, without its model or its input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from instsel.commands.options import add_quiet
from instsel.commands.status import open_manifest
from instsel.runs.merged_output import FORMATS
from instsel.terminal import escaped, say


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("merge", help="write a complete run's shards as one file again")
    parser.add_argument("folder", type=Path, metavar="DIR", help="run folder")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the file")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to; default DIR/scores.FORMAT")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Any) -> int:
    """Merge a run's shards."""
    from instsel.commands.unreadable_rows import with_reasons
    from instsel.runs import RunFolder
    from instsel.runs.merged_output import write_merged
    from instsel.runs.results import describe_result
    from instsel.runs.shards import Stage

    manifest = open_manifest(args.folder)
    target = args.output or args.folder / f"scores.{args.format}"
    if target.suffix != f".{args.format}":
        raise ValueError(f"--output {target}: expected a name that ends with .{args.format}, as --format says")
    if args.output is not None and target.exists() and not args.overwrite:
        raise ValueError(f"{target} exists; name another --output or give --overwrite")
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent} is not a folder")
    stages = manifest.get("stages") or []
    if not manifest.get("stages_complete") or not stages:
        raise ValueError(f"{args.folder} is not complete; the command that made it continues it (see instsel status)")
    folder = RunFolder.reopen(args.folder, manifest, interrupts=interrupts)
    try:
        name, rows, shard_rows = stages[-1]
        last = Stage(name, rows, shard_rows, _never)
        missing = len(last.slices()) - len(folder.shards.whole(last))
        if missing:
            raise ValueError(
                f"{missing} shards of {args.folder} are damaged or gone; its own command computes them again"
            )
        store = folder.kept_rows()
        if store is None:
            raise ValueError(f"the rows kept in {args.folder} are damaged or gone; its own command reads them again")
        with folder.explained():
            scores = with_reasons(lambda: folder.shards.tables(last), store, manifest)
            own = write_merged(target.parent, target.name, store, scores, columns=manifest["columns"])
        output = folder.manifest.get("output") or {}
        if target.resolve() == (folder.path / str(output.get("name"))).resolve():  # the result that its digest is of
            folder.save(output=describe_result(target, own))
    finally:
        folder.close()
    if not args.quiet:
        say(f"written: {escaped(str(target))} ({rows:,} rows)")
    return 0


def _never(rows: range) -> Any:
    raise AssertionError("merging computes nothing")
