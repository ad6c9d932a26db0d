"""`instsel curate INPUT... --model M --budget B --to TRAINER --output DIR`: from a pool to a trainer's files.

It runs the other commands one after the other, each by the words that it prints, so that each can be repeated by hand.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path

from instsel.commands import export, inspect, method_command, report, select
from instsel.commands.arguments import Parser, Subcommands
from instsel.commands.curate_checks import check_steps
from instsel.commands.flags import INPUT, MODEL, WORKERS, add_method_flags, add_options
from instsel.commands.options import fraction, local_folder, seed, written
from instsel.methods.perplexity import perplexity
from instsel.runs.interrupts import Interrupts
from instsel.runs.manifest import OtherSettingsError
from instsel.runs.run_files import MANIFEST, PAGE
from instsel.terminal import complain, escaped, say

METHODS = ("ifd", "wici")  # whose runs have what the recommended selection needs
SCORES, SELECTION, DATA = "scores", "selection", "data"  # folders of the output


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    from instsel.export import TRAINERS

    parser = commands.add_parser(
        "curate",
        help="inspect, score, select as recommended, export and report, each by its own command",
        description="From a pool to a trainer's files: instsel inspect, ifd (or wici), select --procedure recommended, "
        f"export and report, into DIR/{SCORES}, DIR/{SELECTION}, DIR/{DATA} and DIR/{PAGE}. Each command is printed "
        "before it runs. The same command continues where it was stopped: scores and selection are not made again.",
    )
    add_options(parser, *INPUT, *MODEL)
    add_method_flags(parser, perplexity.method)  # those that say how turns are scored, which every method has
    parser.add_argument("--method", choices=METHODS, default=METHODS[0], help=f"what scores; default {METHODS[0]}")
    select.add_budget(parser)
    parser.add_argument("--to", required=True, choices=tuple(TRAINERS), help="who reads the selection")
    parser.add_argument("--name", default="instsel", metavar="NAME", help="of the data set; default instsel")
    parser.add_argument("--output", type=local_folder, required=True, metavar="DIR", help="folder for all of it")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the selection; default 0")
    parser.add_argument(
        "--max-failures", type=fraction, default=0.05, metavar="F",
        help="share of rows that may fail (0.05 or 5%%); default 0.05",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a selection made with other flags; scores are kept"
    )
    parser.add_argument("--dry-run", action="store_true", help="inspect, and print hours and tokens of scoring")
    parser.add_argument("--no-timing", action="store_true", help="with --dry-run: load and time nothing, say no hours")
    add_options(parser, *WORKERS, "quiet")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run the steps; the first that fails ends it with its exit code."""
    if "-" in args.input:
        raise ValueError("curate reads its input more than once: name a file in place of -")
    from instsel.export.trainer_files import files_of
    from instsel.export.written_files import others_of

    output = Path(args.output)
    check_steps(args, output / SELECTION, output / DATA, output / PAGE, interrupts)
    parser, parsers = _step_parsers()
    for words in steps(args, parsers):
        if not args.quiet:
            say(f"\n$ {escaped(shlex.join(['instsel', *words]), limit=1 << 16)}")
        parsed = parser.parse_args(words)
        try:
            code = int(parsed.run(parsed, interrupts))
        except OtherSettingsError as error:
            if words[0] != args.method:
                raise
            told = f"Name another --output, or remove {output / SCORES} yourself: --overwrite replaces the selection"
            raise ValueError(f"{error.what}. {told}") from None
        if code:
            return code
        if words[0] == "export" and args.overwrite:  # what is left there is of the selection before
            for path in others_of(output / DATA, files_of(args.to, output / DATA, args.name)):
                complain(
                    "note", f"{escaped(str(path))} stays as an earlier export wrote it, of another selection maybe"
                )
        interrupts.check()
    return 0


def _step_parsers() -> tuple[Parser, dict[str, argparse.ArgumentParser]]:
    """The parser of the commands that curate runs, and theirs by name."""
    from instsel.methods.registry import find_methods

    parser = Parser(prog="instsel")
    parser.set_defaults(plugin=[])  # as the whole program's parser has it
    commands = parser.add_subparsers(dest="command", required=True)
    methods = find_methods()
    for name in METHODS:
        method_command.add_parser(commands, methods[name])
    for command in (inspect, select, export, report):
        command.add_parser(commands)
    return parser, dict(commands.choices)


def steps(args: argparse.Namespace, parsers: dict[str, argparse.ArgumentParser]) -> Iterator[list[str]]:
    """The words of each command in turn."""
    output = Path(args.output)
    scores, selection = output / SCORES, output / SELECTION
    scored = ["--output", str(scores), *(["--dry-run"] if args.dry_run else [])]
    if not args.quiet and not (scores / MANIFEST).exists():  # it does nothing but print
        yield _step("inspect", args, parsers, args.input, [])
    yield _step(args.method, args, parsers, args.input, scored, without=("overwrite", "seed"))
    if args.dry_run:
        return
    chosen = ["--procedure", "recommended", "--output", str(selection)]
    yield _step("select", args, parsers, [str(scores)], chosen)
    # What an export wrote may always be made again: it replaces nothing else.
    yield _step("export", args, parsers, [str(selection)], ["--output", str(output / DATA), "--overwrite"])
    yield _step("report", args, parsers, [str(scores), str(selection)], ["--output", str(output / PAGE)])


def _step(
    name: str,
    args: argparse.Namespace,
    parsers: dict[str, argparse.ArgumentParser],
    inputs: list[str],
    own: list[str],
    without: tuple[str, ...] = (),
) -> list[str]:
    """A command with its inputs, the flags that it shares with curate where they are no defaults, and `own` ones."""
    words: list[str] = []
    for action in parsers[name]._actions:
        flag = action.option_strings[0] if action.option_strings else ""
        value = getattr(args, action.dest, None)
        if not flag or flag in own or action.dest in without or value is None or value == action.default:
            continue
        word = written(value)
        words += [flag] if action.nargs == 0 else [f"{flag}={word}"] if word.startswith("-") else [flag, word]
    return [name, *inputs, *words, *own]
