"""What a method can be told: typed fields with their help and bounds, from which keywords and flags follow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from instsel.engine.token_progress import ProgressLike
from instsel.prompts import check_template
from instsel.records import Example, to_examples

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

_BOUNDED = {"int": (int, np.integer), "float": (int, float, np.integer, np.floating)}


@dataclass(frozen=True, slots=True)
class About:
    """What is said of one parameter besides its name, type and default."""

    help: str
    kind: Kind = "value"
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str | None = None
    flag: str | None = ""  # the command line's word; "" is the field's name, None is no flag
    positional: bool = False  # whether the function also takes it by its place, after the rows


def parameter(
    default: Any,
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
    """A field of `Parameters`: its default, one line of help, and what it may be.

    Raises ValueError or TypeError naming the parameter when an object is made whose value is outside `choices` or
    below `minimum` or above `maximum`, or is no number where the field's type says int or float.
    """
    about = About(help, kind, choices, minimum, maximum, metavar, flag, positional)
    return dataclasses.field(default=default, metadata={"about": about})


Self = TypeVar("Self", bound="Parameters")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What every method can be told; a method's own class adds its fields.

    A subclass is a frozen dataclass with `kw_only=True`. `check` may look at several fields together, `for_rows` at
    fields that have one entry a row.
    """

    uses_template: ClassVar[bool] = True  # whether the rows' requests are written by it

    template: Any = parameter(
        "plain",
        'how a prompt is written: "plain", "alpaca", "chat", a text with {instruction} and {input}, or the path of a '
        "Jinja chat template",
        flag=None,
    )
    template_date: str | None = parameter(
        None,
        "the day, 2026-07-31 or 2026-07-31T09:30:00, that a chat template with `strftime_now` reads; by default that "
        "of the call, or of the run's beginning",
        flag=None,
    )
    max_length: int | None = parameter(
        None, "longest sequence in tokens, by default and at most the model's context; answers are never cut", flag=None
    )
    columns: Mapping[str, str] | None = parameter(
        None, "which column holds which field, where the format is not to be found by itself", flag=None
    )
    progress: ProgressLike = parameter(
        None, "None, True for a bar on stderr, or a function of (tokens done, tokens in all)", flag=None
    )

    def __post_init__(self) -> None:
        for name, kind, about in fields_of(type(self)):
            _check(name, kind, about, getattr(self, name))
        check_template(self.template)
        read_moment(self.template_date)
        self.check()

    def check(self) -> None:
        """Raise ValueError or TypeError for fields that do not go together."""

    def for_rows(self: Self, count: int) -> Self:
        """These parameters for a pool of `count` rows; raises ValueError where an array has another length."""
        return self


def now() -> str:
    """The moment of now, as `template_date` says it."""
    return datetime.now().isoformat(timespec="seconds")


def read_moment(text: Any) -> datetime | None:
    """The moment that a text in ISO 8601 says; ValueError where it says none."""
    try:
        return None if text is None else datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"template_date must be a day such as 2026-07-31, got {text!r}") from None


COMMON = tuple(field.name for field in dataclasses.fields(Parameters))


def fields_of(parameters: type[Parameters]) -> list[tuple[str, str, About]]:
    """Name, type (as written) and description of each field, a method's own ones first."""
    found = [(field.name, _type_of(field.type), field.metadata["about"]) for field in dataclasses.fields(parameters)]
    return sorted(found, key=lambda one: one[0] in COMMON)


def _type_of(kind: Any) -> str:
    """A type as it is written, whether or not annotations are kept as text."""
    return kind if isinstance(kind, str) else kind.__name__ if isinstance(kind, type) else str(kind)


def own_fields(parameters: type[Parameters]) -> list[tuple[str, str, About]]:
    """The fields that a method adds to the common ones."""
    return [one for one in fields_of(parameters) if one[0] not in COMMON]


def default_of(parameters: type[Parameters], name: str) -> Any:
    """The default of a field."""
    return next(field.default for field in dataclasses.fields(parameters) if field.name == name)


def replaced(parameters: Self, **values: Any) -> Self:
    """The parameters with other values in some fields."""
    return dataclasses.replace(parameters, **values) if values else parameters


def _check(name: str, kind: str, about: About, value: Any) -> None:
    if about.kind == "value" and about.choices and value not in about.choices:
        raise ValueError(f"{name} must be one of {', '.join(about.choices)}, got {value!r}")
    words = [word.strip() for word in kind.split("|")]
    if value is None and "None" in words:
        return
    if words[0] == "bool" and not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    if words[0] in _BOUNDED and about.kind == "value" and name not in COMMON:
        limits = ((about.minimum, "at least"), (about.maximum, "at most"))
        bounds = " and ".join(f"{word} {limit:g}" for limit, word in limits if limit is not None)
        whole = "a whole number" if words[0] == "int" else "a number"
        valid = isinstance(value, _BOUNDED[words[0]]) and not isinstance(value, (bool, np.bool_))
        low, high = (-np.inf if about.minimum is None else about.minimum), about.maximum
        if not valid or not low <= value <= (np.inf if high is None else high):
            raise ValueError(f"{name} must be {whole}{' of ' + bounds if bounds else ''}, got {value!r}")


def examples_of(name: str, rows: Any, columns: Mapping[str, str] | None) -> list[Example]:
    """The examples that a parameter of kind "rows" holds; raises ValueError or TypeError naming it."""
    try:
        found = to_examples(rows, columns=columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if not found:
        raise ValueError(f"{name} must hold at least one example, got none")
    return found


def numbers_for_rows(name: str, values: Any, count: int) -> np.ndarray:
    """Numbers as float64 `[n]`; raises ValueError where they are not numbers or not one for each example."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers [{count}], got {type(values).__name__} of other things") from None
    if array.shape != (count,):
        raise ValueError(f"{name} must be numbers [{count}], one for each example, got shape {list(array.shape)}")
    return array


def numbers_of_column(
    name: str, value: Any, choices: tuple[str, ...], present: Sequence[str], read: Callable[[str], list[Any]]
) -> Any:
    """What a parameter of kind "numbers" stands for: a word of `choices` as it is, the numbers of a column it names.

    Raises ValueError naming the columns where it is neither.
    """
    if not isinstance(value, (str, os.PathLike)) or value in choices:
        return value
    if value not in present:
        raise ValueError(
            f"{name} must be one of {', '.join(choices)}, numbers or a column, got {value!r}; "
            f"the columns are {', '.join(present) or 'none'}"
        )
    held = read(str(value))
    return numbers_for_rows(name, held, len(held))
