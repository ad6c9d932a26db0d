"""The command of a method, as its definition says: flags, run folder, dry run."""

from __future__ import annotations

from functools import partial
from typing import Any

from instsel.commands.method_flags import add_method_flags
from instsel.commands.options import add_input_options, add_model_options, add_run_options
from instsel.commands.worker_options import add_worker_options
from instsel.methods.method import Method


def add_parser(commands: Any, method: Method[Any], name: str = "") -> None:
    """Add a method's command, under its own name or an older one."""
    parser = commands.add_parser(name or method.name, help=method.help, description=f"{method.name}: {method.help}")
    add_input_options(parser)
    add_model_options(parser)
    add_method_flags(parser, method)
    add_run_options(parser)
    add_worker_options(parser)
    parser.set_defaults(run=partial(_run, method))


def _run(method: Method[Any], args: Any, interrupts: Any) -> int:
    from instsel.commands.scoring import run_scoring

    return run_scoring(method, args, interrupts)
