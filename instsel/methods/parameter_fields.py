"""Fields of a dataclass with what is said of them besides name, type and default: help, bounds, words for flags."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

# How a command line reads a parameter and a manifest records it:
# value     a number, a word or a switch, as it is written
# array     numbers from a .npy file, recorded by the file's digest
# numbers   one number a row: a word of `choices`, the name of a column, or a .npy file
# embedder  the name of a sentence-transformers model, or a .npy file
# model     a folder or hub id, opened as a second scorer and recorded by its digest
# models    several of them
# rows      a file of examples, recorded by its digest
# texts     a text file with one text a line, recorded by its digest
Kind = Literal["value", "array", "numbers", "embedder", "model", "models", "rows", "texts"]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """What is said of one parameter besides its name, type and default."""

    help: str
    kind: Kind = "value"
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None
    flag: str | None = ""  # the command line's word; "" is the field's name, None is no flag
    positional: bool = False  # whether the function also takes it by its place, after the rows

    def holds(self, number: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        low, high = -math.inf if self.minimum is None else self.minimum, self.maximum
        return low <= number <= (math.inf if high is None else high)

    def expected(self, word: str) -> str:
        """A number of the type "int" or "float" within the bounds, as messages say it.

        >>> FieldSpec("", minimum=1).expected("int"), FieldSpec("").expected("float")
        ('a whole number of at least 1', 'a number')
        """
        limits = ((self.minimum, "at least"), (self.maximum, "at most"))
        bounds = " and ".join(f"{said} {limit:g}" for limit, said in limits if limit is not None)
        return f"{'a whole number' if word == 'int' else 'a number'}{' of ' + bounds if bounds else ''}"


def parameter(
    default: object,
    help: str,
    *,
    kind: Kind = "value",
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str | None = None,
    flag: str | None = "",
    positional: bool = False,
) -> Any:
    """A field of `Parameters` or of a run's configuration: its default, one line of help, and what it may be.

    `Parameters` raise ValueError or TypeError naming the parameter when an object is made whose value is outside
    `choices` or below `minimum` or above `maximum`, or is no number where the field's type says int or float.
    """
    spec = FieldSpec(help, kind, choices, minimum, maximum, metavar, flag, positional)
    return dataclasses.field(default=default, metadata={"spec": spec})


def described(field: dataclasses.Field[Any]) -> tuple[str, str, FieldSpec]:
    """Name, type (as written, whether or not annotations are kept as text) and description of a field."""
    kind: object = field.type
    written = kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) else str(kind)
    return field.name, written, field.metadata["spec"]


def first_word(kind: str) -> str:
    """Of a type as it is written, the first of those that it joins.

    >>> first_word("int | None")
    'int'
    """
    return kind.split("|")[0].strip()


def default_of(described: type, name: str) -> object:
    """The default of a field."""
    return next(field.default for field in dataclasses.fields(described) if field.name == name)
