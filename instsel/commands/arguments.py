"""A command line's words: errors of one line that name the nearest word where one may have been misspelt."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from instsel.nearest_word import nearest
from instsel.terminal import complain

WRONG_USE = 2


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._given: list[str] = []
        super().__init__(*args, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
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
