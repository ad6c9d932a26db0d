"""How the values of flags are read, and written."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from instsel.methods.parameter_fields import FieldSpec

Reader: TypeAlias = Callable[[str], object]


def named(text: str) -> str:
    """A name; a shell's variable that is not set would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got ''")
    return text


def local_folder(text: str) -> Path:
    """A folder of a file system."""
    from instsel.runs.remote_files import is_address

    named(text)
    if is_address(text):
        raise argparse.ArgumentTypeError(
            f"{text} is no folder of a file system: write to a folder here, and copy it there"
        )
    return Path(text)


def template_text(text: str) -> str:
    """A template as a shell can write it."""
    return text.replace("\\n", "\n")


def bounded(word: str, spec: FieldSpec) -> Callable[[str], float]:
    """A reader of numbers of the type "int" or "float" within a field's bounds."""
    number = int if word == "int" else float

    def read(text: str) -> float:
        try:
            value: float = number(text)
        except ValueError:
            value = math.nan
        if not spec.holds(value):
            raise argparse.ArgumentTypeError(f"expected {spec.expected(word)}, got {text!r}")
        return value

    return read


positive = bounded("int", FieldSpec("", minimum=1))
seed = bounded("int", FieldSpec("", minimum=0))


def batch_tokens(text: str) -> float | str:
    """A whole number of at least 1, or "auto"."""
    return text if text == "auto" else positive(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, or a percentage."""
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1 or a percentage, got {text!r}")
    return value


def column_mapping(text: str) -> dict[str, str]:
    """FIELD=COLUMN pairs; a column name may hold anything but a comma."""
    mapping: dict[str, str] = {}
    for part in text.split(","):
        name, equals, column = part.partition("=")
        if not (name.strip() and equals and column.strip()):
            raise argparse.ArgumentTypeError(f"expected FIELD=COLUMN,..., got {text!r}")
        if name.strip() in mapping:
            raise argparse.ArgumentTypeError(f"{name.strip()!r} is given twice in {text!r}")
        mapping[name.strip()] = column.strip()
    return mapping


def device_names(text: str) -> list[str]:
    """Names with commas between them."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected NAME,..., got {text!r}")
    return names


def written(value: object) -> str:
    """A flag's value as it is written on a command line, pairs and lists with commas between them."""
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


# Of those fields of a run's configuration that their types do not say how to read.
READERS: dict[str, Reader] = {
    "columns": column_mapping,
    "devices": device_names,
    "max_batch_tokens": batch_tokens,
    "max_failures": fraction,
    "output": named,
    "template": template_text,
    "template_without_input": template_text,
}
