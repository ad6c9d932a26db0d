"""`instsel export SELECTION --to TRAINER`: a selection as the files that a trainer loads as they are."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import add_options
from instsel.commands.options import column_mapping, local_folder
from instsel.methods.stages import UNREADABLE
from instsel.records.json_types import JsonObject
from instsel.runner.row_checks import REASON
from instsel.runs.arguments import files_named_by
from instsel.runs.manifest import read_manifest
from instsel.runs.scored_files import ScoredFile
from instsel.selection.selection_inputs import scored_input
from instsel.terminal import complain, escaped, say


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    from instsel.export import TRAINERS

    parser = commands.add_parser("export", help="a selection as files that a trainer loads as they are")
    parser.add_argument("input", type=Path, metavar="SELECTION", help="folder of a selection or a run, or a file")
    parser.add_argument("--to", required=True, choices=tuple(TRAINERS), help="who reads it")
    parser.add_argument("--output", type=local_folder, required=True, metavar="DIR", help="folder for the files")
    parser.add_argument("--name", default="instsel", metavar="NAME", help="of the data set and its file")
    parser.add_argument(
        "--columns", type=column_mapping, metavar="FIELD=COLUMN,...", help="which columns hold what, as when scoring"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that an export wrote")
    add_options(parser, "quiet")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: object) -> int:
    """Write the files."""
    from instsel.export import export
    from instsel.export.trainer_files import check_target, files_of
    from instsel.records import open_rows
    from instsel.runs.inputs import open_input
    from instsel.runs.run_files import MANIFEST, is_ours, resolved

    _, scored = scored_input(args.input)
    path = scored.path
    inputs = {resolved(file) for file in (path, *_read_for(args.input))}
    for file in files_of(args.to, args.output, args.name):
        if resolved(file) in inputs or (file.exists() and resolved(file.parent) in inputs):
            raise ValueError(f"--output {args.output}: {file} is an input; name another folder or --name")
        if is_ours(file.name) and (file.parent / MANIFEST).exists():
            raise ValueError(f"--output {args.output}: {file.name} is a file of the run there; name another folder")
    check_target(args.to, args.output, args.name, args.overwrite)
    read = [open_rows(batch)[1] for batch in open_input(str(path), None).read()]
    rows = _usable([row for batches in read for batch in batches for row in batch], scored)
    try:
        written = export(
            rows, args.to, args.output,
            name=args.name, columns=args.columns, best=scored.own.get("best"), overwrite=args.overwrite,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not args.quiet:
        say(f"export: {len(rows):,} rows for {args.to}")
        for file in written:
            say(f"written: {escaped(str(file))}")
    return 0


def _read_for(source: Path) -> list[Path]:
    """What was read to make a selection or run: itself, its inputs, and theirs where they are runs too."""
    found: list[Path] = []
    left = [source]
    while left:
        found.append(path := left.pop())
        manifest = read_manifest(path)[0] if path.is_dir() else None
        inputs = files_named_by({"input": (manifest or {}).get("arguments", {}).get("input")})
        left += [one for one in inputs if one not in found]
    return found


def _usable(rows: list[JsonObject], scored: ScoredFile) -> list[JsonObject]:
    """The rows but those that the run found to be no examples, or groups without an answer; these are told of."""
    left_out = np.zeros(len(rows), bool)
    for column, value, why in (
        ("status", UNREADABLE, f"their status is {UNREADABLE}"),
        ("best", -1, "none of their candidates was scored"),
    ):
        if column not in scored.own or (column == "status" and REASON not in scored.own):
            continue  # results of runs with unreadable rows have the reason beside the status
        found = scored.equals(scored.own[column], value) & ~left_out
        if found.any():
            complain("warning", f"{int(found.sum()):,} of {len(rows):,} rows are left out: {why}")
        left_out |= found
    return [row for row, out in zip(rows, left_out, strict=True) if not out]
