"""A method's parameters as flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from instsel.commands.options import bounded, positive
from instsel.methods.method import Method
from instsel.methods.parameters import FieldSpec
from instsel.runner.given_parameters import default_given, flag_of, given_fields


def add_method_flags(parser: argparse.ArgumentParser, method: Method) -> None:
    """One flag a parameter that has one."""
    for name, (kind, spec) in given_fields(method).items():
        default = default_given(method, name, spec)
        options: dict[str, Any] = {"dest": name, "help": _help(spec), "metavar": spec.metavar}
        word = kind.split("|")[0].strip()
        if word == "bool":
            options |= {"action": argparse.BooleanOptionalAction if default else "store_true", "default": default}
            del options["metavar"]
        elif spec.kind in ("models", "texts", "rows", "array"):
            options |= {"metavar": spec.metavar or _METAVARS[spec.kind]}
            if spec.kind == "models":
                options |= {"nargs": "+"}
        elif spec.kind == "value":
            options |= {"default": default}
            if spec.choices:
                options |= {"choices": spec.choices}
                del options["metavar"]
            elif word in ("int", "float"):
                options |= {"type": _number(word, spec), "metavar": spec.metavar or ("N" if word == "int" else "X")}
        else:
            options |= {"default": default, "metavar": spec.metavar or _METAVARS.get(spec.kind)}
        parser.add_argument(f"--{flag_of(name, spec)}", **options)


_METAVARS = {"array": "NPY", "rows": "FILE", "texts": "FILE", "models": "NAME", "model": "NAME"}


def _number(word: str, spec: FieldSpec) -> Callable[[str], float]:
    if word == "int" and spec.minimum == 1 and spec.maximum is None:
        return positive
    return bounded(int if word == "int" else float, spec.minimum, spec.maximum)


def _help(spec: FieldSpec) -> str:
    text = spec.help.replace("%", "%%")
    extra = {
        "array": "a .npy file",
        "embedder": "a .npy file in place of a name",
        "numbers": f"one of {', '.join(spec.choices)}, the name of a column, or a .npy file",
        "texts": "one a line, \\n for a line feed",
    }.get(spec.kind)
    return f"{text} ({extra})" if extra else text
