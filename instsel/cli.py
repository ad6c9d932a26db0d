"""The command line: `instsel COMMAND ...`; errors are one line, exit codes are the customary ones."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import instsel
from instsel.arguments import WRONG_USE, Parser
from instsel.runs import RunError
from instsel.runs.interrupts import Interrupted, Interrupts
from instsel.runs.lock import FolderInUseError
from instsel.terminal import complain, show_own_warnings

COMMANDS = ("score", "ifd", "wici", "grape", "select", "demo", "status", "merge")
FAILED = 1
_QUIET_LIBRARIES = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="instsel", description="Score instruction-tuning data under a language model; select from it.")
    parser.add_argument("--version", action="version", version=f"instsel {instsel.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"instsel.commands.{name}").add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 for a failed run, 2 for wrong use or input, 128 + signal."""
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    show_own_warnings()
    with Interrupts() as interrupts:
        try:
            parsed = build_parser().parse_args(arguments)
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
