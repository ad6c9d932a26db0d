"""A command line's words: errors of one line that name the nearest word, and help that says defaults."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TypeAlias

from instsel.nearest_word import nearest
from instsel.terminal import complain

WRONG_USE = 2
_SHOWN = 40  # characters of a default, in help


class HelpWithDefaults(argparse.HelpFormatter):
    """Help that ends with the default of each flag that takes a value, but for those whose own text says it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if not action.option_strings or action.nargs == 0 or action.required or "default" in text:
            return text
        given = action.default
        shown = "none" if given is None or given == [] or given == {} else str(given).replace("\n", " ")
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN].rstrip()}..."
        return f"{text} (default: {shown.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help says defaults."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._given: list[str] = []
        super().__init__(*args, **{"formatter_class": HelpWithDefaults, **options})

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; a command refuses itself what it does not know, since it knows what could have been meant."""
        self._given = list(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown and " " in self.prog:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with the code for wrong use."""
        complain("error", f"{message}{self._hint(message)} (see {self.prog} --help)")
        raise SystemExit(WRONG_USE)

    def _hint(self, message: str) -> str:
        if "invalid choice: " in message and "(choose from " in message:
            word, choices = message.split("invalid choice: ", 1)[1].split(" (choose from ", 1)
            near = nearest(
                word.strip("'\""), [choice.strip().strip("'\"") for choice in choices.rstrip(")").split(",")]
            )
            return f"; did you mean {near}?" if near else ""
        flags = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for flag in [word.partition("=")[0] for word in self._given if word.startswith("--") and len(word) > 2]:
            near = nearest(flag, flags)
            if near and not any(known.startswith(flag) for known in flags):
                return f"; {flag}: did you mean {near}?"
        return ""


Subcommands: TypeAlias = "argparse._SubParsersAction[Parser]"
