"""`instsel report RUN...`: what runs found, as one HTML page to look at."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import add_options
from instsel.commands.options import positive
from instsel.runs.run_files import PAGE, is_page
from instsel.terminal import escaped, say


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("report", help="a page on finished runs: scores, rows, selection, cost")
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="RUN", help="run folders of one pool, and a selection from it"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help=f"the page to write; default {PAGE} in the first folder"
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page")
    parser.add_argument("--colour-by", "--color-by", metavar="COLUMN", help="a column of the input to colour rows by")
    parser.add_argument(
        "--max-rows", type=positive, default=10_000, metavar="N", help="rows in the table; a fixed sample of more"
    )
    add_options(parser, "quiet")
    parser.set_defaults(run=run)


def check_page(output: Path) -> None:
    """ValueError where something is there that a page must not replace."""
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: name a file, such as {output / PAGE}")
    if os.path.lexists(output) and not is_page(output):
        raise ValueError(f"--output {output} exists and is no page that instsel report wrote: name another")


def run(args: argparse.Namespace, interrupts: object) -> int:
    """Write the page."""
    from instsel.report import build_page, read_report
    from instsel.runs.durable_files import remove_unfinished, write_text

    output = args.output or args.folders[0] / PAGE
    check_page(output)
    if not output.parent.is_dir() and args.output is not None:
        raise ValueError(f"--output {output}: there is no folder {output.parent}")
    report = read_report(args.folders, colour_by=args.colour_by, max_rows=args.max_rows)
    page = build_page(report, title=args.title)
    try:
        remove_unfinished(output.parent)
        write_text(output, page)
    except OSError as error:
        raise ValueError(f"--output {output} cannot be written: {error.strerror or error}") from error
    if not args.quiet:
        say(f"report: {report.count:,} rows, {len(report.listed):,} of them in the table")
        say(f"written: {escaped(str(output))}")
    return 0
