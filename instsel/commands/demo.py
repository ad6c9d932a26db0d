"""`instsel demo`: the whole chain on the package's own small model and data, offline."""

from __future__ import annotations

import argparse
from pathlib import Path

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import add_options
from instsel.commands.options import seed


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("demo", help="wici and grape on the package's own model and data, offline")
    parser.add_argument("--output", type=Path, default=Path("instsel-demo"), metavar="DIR", help="folder to write")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the examples that are made")
    add_options(parser, "quiet")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: object) -> int:
    """Run the demonstration."""
    from instsel.demo.run import run_demo

    return run_demo(args.output, quiet=args.quiet, seed=args.seed)
