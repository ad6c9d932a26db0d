"""The command line: `instsel COMMAND ...`; errors are one line, exit codes are the customary ones."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import instsel
from instsel.commands import configuration, method_command
from instsel.commands.arguments import WRONG_USE, Parser
from instsel.methods.registry import OLDER_NAMES, find_methods
from instsel.runs import RunError
from instsel.runs.interrupts import Interrupted, Interrupts
from instsel.runs.lock import FolderInUseError
from instsel.terminal import complain, show_own_warnings

COMMANDS = (
    "curate",
    "inspect",
    "select",
    "report",
    "export",
    "demo",
    "status",
    "merge",
)  # besides methods, each a command too
FAILED = 1
_QUIET_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def build_parser(plugins: Sequence[str] = ()) -> Parser:
    """The parser of all commands, with those of the methods in the files `plugins`."""
    parser = Parser(prog="instsel", description="Score instruction-tuning data under a language model; select from it.")
    parser.add_argument("--version", action="version", version=f"instsel {instsel.__version__}")
    _add_plugin_options(parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    methods = find_methods(plugins)
    for method in methods.values():
        if method.name in COMMANDS:
            raise ValueError(f"a plug-in registers the method {method.name!r}, which is a command of instsel")
        method_command.add_parser(commands, method)
    for older, name in OLDER_NAMES.items():
        method_command.add_parser(commands, methods[name], older)
    for name in COMMANDS:
        importlib.import_module(f"instsel.commands.{name}").add_parser(commands)
    for command in {id(one): one for one in commands.choices.values()}.values():
        command.add_argument(configuration.OPTION, metavar="FILE", help=configuration.HELP)
    return parser


def _add_plugin_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        configuration.PLUGIN, action="append", default=[], metavar="FILE", help="a Python file with methods"
    )
    parser.add_argument(
        configuration.TRUST,
        action="store_true",
        help=f"run the plug-ins that the file after {configuration.OPTION} names",
    )


def _plugins(arguments: Sequence[str]) -> list[str]:
    """The files named by --plugin before the command, whose methods are commands too."""
    parser = Parser(prog="instsel", add_help=False, allow_abbrev=False)
    _add_plugin_options(parser)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    return list(parser.parse_known_args(list(arguments))[0].plugin)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failed run, 2 for wrong use or input, 128 + signal."""
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    show_own_warnings()
    with Interrupts() as interrupts:
        try:
            arguments = sys.argv[1:] if arguments is None else arguments
            arguments = configuration.with_configuration(arguments, lambda words: build_parser(_plugins(words)))
            parsed = build_parser(_plugins(arguments)).parse_args(arguments)
            if parsed.config is not None:  # an abbreviation, which argparse understands
                raise ValueError(f"write {configuration.OPTION} out")
            return int(parsed.run(parsed, interrupts))
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 0
        except BaseException as error:
            if os.environ.get("INSTSEL_TRACEBACK") == "1":
                raise
            return _explain(error)


def _explain(error: BaseException) -> int:
    """Say in one line what went wrong and give the exit code."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        complain("interrupted", text)
        return error.exit_code if isinstance(error, Interrupted) else 130
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads: say nothing at exit either
        return FAILED
    if isinstance(error, (RunError, FolderInUseError)):
        complain("error", text)
        return FAILED
    if isinstance(error, OSError):
        complain("error", f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text)
        return WRONG_USE
    if isinstance(error, (ValueError, TypeError, ImportError)):
        complain("error", text)
        return WRONG_USE
    if isinstance(error, MemoryError):
        complain("error", "the machine has too little memory for this; a smaller --max-batch-tokens may help")
        return FAILED
    complain("error", f"unexpected {type(error).__name__}: {text} (INSTSEL_TRACEBACK=1 shows where)")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
