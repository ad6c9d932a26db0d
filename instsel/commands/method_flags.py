"""A method's parameters as flags: how they are written, read, and recorded in a manifest."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.commands.options import bounded, positive
from instsel.methods.method import Method
from instsel.methods.parameters import About, default_of, own_fields

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer

_SHARED = {"seed"}  # flags that every command has


def add_method_flags(parser: argparse.ArgumentParser, method: Method[Any]) -> None:
    """One flag a parameter that has one."""
    for name, kind, about in own_fields(method.parameters):
        if about.flag is None or name in _SHARED:
            continue
        default = default_of(method.parameters, name)
        options: dict[str, Any] = {"dest": name, "help": _help(about), "metavar": about.metavar}
        word = kind.split("|")[0].strip()
        if word == "bool":
            options |= {"action": argparse.BooleanOptionalAction if default else "store_true", "default": default}
            del options["metavar"]
        elif about.kind in ("models", "texts", "rows", "array"):
            options |= {"metavar": about.metavar or _METAVARS[about.kind]}
            if about.kind == "models":
                options |= {"nargs": "+"}
        elif about.kind == "value":
            options |= {"default": default}
            if about.choices:
                options |= {"choices": about.choices}
                del options["metavar"]
            elif word in ("int", "float"):
                options |= {"type": _number(word, about), "metavar": about.metavar or ("N" if word == "int" else "X")}
        else:
            options |= {"default": default, "metavar": about.metavar or _METAVARS.get(about.kind)}
        parser.add_argument(f"--{flag_of(name, about)}", **options)


_METAVARS = {"array": "NPY", "rows": "FILE", "texts": "FILE", "models": "NAME", "model": "NAME"}


def flag_of(name: str, about: About) -> str:
    """The command line's word for a parameter, without its dashes."""
    return about.flag or name.replace("_", "-")


def read_parameters(
    method: Method[Any],
    args: argparse.Namespace,
    open_scorer: Callable[[str], Scorer],
    column: Callable[[str, str, tuple[str, ...]], Any] | None = None,
) -> Any:
    """The parameters that the flags say, files read; `column(parameter, name, words)` gives the numbers of a column.

    Without `column`, before the rows are known, a parameter that names one keeps its default.

    Raises ValueError or TypeError naming the flag or the parameter.
    """
    values: dict[str, Any] = {"template": template_of(args), "template_date": args.template_date}
    values |= {"max_length": args.max_length, "columns": args.columns}
    for name, _, about in own_fields(method.parameters):
        if name in _SHARED:
            values[name] = getattr(args, name)
        elif about.flag is not None and getattr(args, name) is not None:
            values[name] = _read(name, getattr(args, name), about, open_scorer, column, args.columns)
            if values[name] is None:
                del values[name]
    return method.parameters(**values)


def template_of(args: argparse.Namespace) -> Any:
    """The template that the flags say: a name, a file, a text or two."""
    if args.template_without_input is None:
        return args.template
    return (args.template, args.template_without_input)


def recorded(method: Method[Any], args: argparse.Namespace) -> dict[str, Any]:
    """The parameters as a manifest holds them: files and models by their digests."""
    found = {}
    for name, _, about in own_fields(method.parameters):
        if about.flag is not None and name not in _SHARED:
            found[flag_of(name, about).replace("-", "_")] = _recorded(getattr(args, name), about)
    return found


def _read(
    name: str,
    value: Any,
    about: About,
    open_scorer: Callable[[str], Scorer],
    column: Callable[[str, str, tuple[str, ...]], Any] | None,
    columns: Mapping[str, str] | None,
) -> Any:
    flag = f"--{flag_of(name, about)}"
    if about.kind == "array" or (about.kind == "numbers" and str(value).endswith(".npy")):
        return read_array(value, flag)
    if about.kind == "numbers" and value not in about.choices:
        return None if column is None else column(name, value, about.choices)
    if about.kind == "model":
        return open_scorer(value)
    if about.kind == "models":
        return [open_scorer(one) for one in value]
    if about.kind == "rows":
        return _rows(value, flag, columns)
    if about.kind == "texts":
        return _texts(value, flag)
    return value


def _recorded(value: Any, about: About) -> Any:
    from instsel.runs.durable_files import digest_file
    from instsel.runs.fingerprints import model_fingerprint
    from instsel.runs.inputs import open_input

    if value is None or about.kind == "value":
        return value
    if about.kind in ("array", "texts") or (about.kind in ("numbers", "embedder") and str(value).endswith(".npy")):
        return digest_file(Path(value))
    if about.kind == "rows":
        return open_input(value, None).digest
    if about.kind == "model":
        return model_fingerprint(value, None)["model_digest"]
    if about.kind == "models":
        return [model_fingerprint(one, None)["model_digest"] for one in value]
    return value


def read_array(path: str | Path, flag: str) -> np.ndarray:
    """The numbers of a .npy file that a flag names; ValueError naming both where there are none."""
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise ValueError(f"{flag} {path} is not a regular file")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):  # what NumPy says of a file that is none speaks of loading pickles
        raise ValueError(f"{flag} {path} is not a .npy file of numbers") from None
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror}") from None


def _rows(path: str, flag: str, columns: Mapping[str, str] | None) -> list[Any]:
    """Read as the input is: the columns named for that hold the fields here as well."""
    from instsel.records import Unreadable, to_examples
    from instsel.records.unread_keys import UnreadKeys
    from instsel.runs.inputs import open_input

    try:
        unread = UnreadKeys()
        source = open_input(path, None)
        found = [
            one
            for batch in source.read()
            for one in to_examples(batch, columns=columns, unread=unread, on_error="status")
        ]
    except ValueError as error:
        raise ValueError(f"{flag} {path}: {error}") from None
    if not found:
        raise ValueError(f"{flag} {path} has no rows")
    for row, one in enumerate(found):
        if isinstance(one, Unreadable):
            raise ValueError(f"{flag} {source.places([row])[row]}: {one.reason}")
    unread.warn()
    return found


def _texts(path: str, flag: str) -> list[str]:
    try:
        found = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{flag} {path} is not a text file in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{flag} {path}: {error.strerror}") from None
    if not found:
        raise ValueError(f"{flag} {path} has no lines")
    return [line.replace("\\n", "\n") for line in found]


def _number(word: str, about: About) -> Callable[[str], Any]:
    if word == "int" and about.minimum == 1 and about.maximum is None:
        return positive
    return bounded(int if word == "int" else float, about.minimum, about.maximum)


def _help(about: About) -> str:
    text = about.help.replace("%", "%%")
    extra = {
        "array": "a .npy file",
        "embedder": "a .npy file in place of a name",
        "numbers": f"one of {', '.join(about.choices)}, the name of a column, or a .npy file",
        "texts": "one a line, \\n for a line feed",
    }.get(about.kind)
    return f"{text} ({extra})" if extra else text
