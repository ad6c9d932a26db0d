"""The command of a method: its flags, the configuration that they say, and what is said of the run."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import INPUT, MODEL, RUN, WORKERS, add_method_flags, add_options
from instsel.methods.method import Method
from instsel.terminal import complain, say

if TYPE_CHECKING:
    from instsel.runner.configuration import RunConfiguration
    from instsel.runs.interrupts import Interrupts


def add_parser(commands: Subcommands, method: Method, name: str = "") -> None:
    """Add a method's command, under its own name or an older one."""
    parser = commands.add_parser(name or method.name, help=method.help, description=f"{method.name}: {method.help}")
    add_options(parser, *INPUT, *MODEL)
    add_method_flags(parser, method)
    add_options(parser, *RUN)
    parser.add_argument("--dry-run", action="store_true", help="print hours and tokens, of a folder what is left")
    parser.add_argument("--no-timing", action="store_true", help="with --dry-run: load and time nothing, say no hours")
    add_options(parser, "quiet", *WORKERS)
    parser.set_defaults(run=partial(run_scoring, method))


def run_scoring(method: Method, args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run a method over an input into a run folder; returns the exit code."""
    from instsel.commands.summary import closing_summary, failure, plan_failure, plan_summary
    from instsel.runner.configuration import Messages
    from instsel.runner.plan import plan_run
    from instsel.runner.scored_run import checked_input, run_into_folder

    configuration = configuration_of(method, args)
    note = _silent if configuration.quiet else partial(complain, "note")
    messages = Messages(partial(complain, "warning"), note, interrupts)
    source = checked_input(configuration)
    if args.dry_run:
        plan = plan_run(configuration, source, messages, timed=not args.no_timing)
        say("\n".join(plan_summary(method.name, configuration, plan)))
        return plan_failure(plan, configuration.max_failures)
    if configuration.output is None:
        raise ValueError("--output is needed: the run folder to write (or --dry-run to see the plan)")
    run = run_into_folder(configuration, source, messages)
    if not configuration.quiet:
        closing_summary(run)
    return failure(run.manifest, configuration.max_failures)


def _silent(text: str) -> None:
    """What `--quiet` makes of a note."""


def configuration_of(method: Method, args: argparse.Namespace) -> RunConfiguration:
    """What the flags say."""
    from instsel.runner import configuration
    from instsel.runner.given_parameters import given_fields

    given = vars(args)
    return configuration.configuration_of(method, given, {name: given[name] for name in given_fields(method)})
