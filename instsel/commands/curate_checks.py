"""What the later steps of `instsel curate` would refuse, said before hours of scoring."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.commands.report import check_page
from instsel.runs.interrupts import Interrupts
from instsel.runs.overwriting import check_place
from instsel.runs.run_files import resolved
from instsel.terminal import complain, escaped

if TYPE_CHECKING:
    from instsel.records.json_types import Row

_TRIED_ROWS = 2000  # that are read as for the trainer


def check_steps(args: argparse.Namespace, selection: Path, data: Path, page: Path, interrupts: Interrupts) -> None:
    """ValueError for a budget above the pool's rows, a place that cannot be written, rows that the trainer refuses.

    `selection` is the selection's folder, `data` that of the trainer's files. Nothing is written. Where the trainer
    reads some rows and not others, a warning says so: which are selected is not known yet.
    """
    from instsel.export.trainer_files import check_target, refusals
    from instsel.records import open_rows
    from instsel.runs.inputs import open_input

    written = check_target(args.to, data, args.name, overwrite=True)
    for folder in (Path(args.output), selection, data):
        _check_folder(folder)
    check_page(page)
    source = open_input(list(args.input), args.limit, args.split)
    _check_inputs(source.files, args.input, written)
    if selection.is_dir():
        check_place(selection, str(selection), args.overwrite, source.files)
    first: list[Row] = []
    count = 0
    for batch in source.read():
        for rows in open_rows(batch)[1]:
            interrupts.check()
            first += rows[: _TRIED_ROWS - len(first)]
            count += len(rows)
        if len(first) == _TRIED_ROWS and not isinstance(args.budget, int):
            break
    if isinstance(args.budget, int) and args.budget > count:
        raise ValueError(f"budget must be at most the {count} rows there are, got {args.budget}")
    refused = refusals(first, args.to, args.columns)
    if refused and len(refused) == len(first):
        raise ValueError(f"--to {args.to}: {refused[0]}")
    if refused:
        told = f"{len(refused):,} of the first {len(first):,} rows cannot be exported to {args.to}, which stops"
        complain("warning", escaped(f"{told} at one that is selected: {refused[0]}", limit=600))


def _check_inputs(files: Iterable[Path], names: Iterable[str], written: Iterable[Path]) -> None:
    """ValueError for a file of the trainer that is an input, or would become one by lying in an input's folder."""
    inputs = {resolved(path) for path in (*files, *map(Path, names))}
    for path in written:
        if own := inputs & {resolved(path), resolved(path.parent)}:
            raise ValueError(f"input {own.pop()} is where {path} would be written: name another --output")


def _check_folder(folder: Path) -> None:
    """ValueError where a folder cannot be made or written."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ValueError(f"--output {folder}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--output {folder}: {there} cannot be written")
