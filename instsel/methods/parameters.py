"""Parameters of methods: typed fields with their help and bounds, from which keywords and flags follow."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeVar

import numpy as np

from instsel.engine.token_progress import ProgressLike
from instsel.methods.parameter_fields import FieldSpec, described, first_word, parameter
from instsel.prompts import check_template
from instsel.prompts.automatic_template import AUTO
from instsel.prompts.chat_messages import TAKEN, ChatSettings
from instsel.prompts.scored_turns import WHICH
from instsel.records import Example, to_examples
from instsel.records.json_types import JsonMapping, JsonObject

_BOUNDED = {"int": (int, np.integer), "float": (int, float, np.integer, np.floating)}
Self = TypeVar("Self", bound="Parameters")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of every method; a method's own class adds its fields.

    A subclass is a frozen dataclass with `kw_only=True`. `check` may look at several fields together, `for_rows` at
    fields that have one entry a row.
    """

    uses_template: ClassVar[bool] = True  # whether the rows' requests are written by it
    takes_chat_template: ClassVar[bool] = True
    shows_demonstrations: ClassVar[bool] = False

    template: str | os.PathLike[str] | tuple[str, str] = parameter(
        AUTO,
        'how a prompt is written: "plain", "alpaca", "chat", a text with {instruction} and {input}, the path of a '
        'Jinja chat template, or "auto": "chat" where the tokenizer has a chat template and the rows hold turns or the '
        'model is named as an instruct model, else "plain"',
        flag=None,
    )
    template_date: str | None = parameter(
        None,
        "the day, 2026-07-31 or 2026-07-31T09:30:00, that a chat template with `strftime_now` reads; by default that "
        "of the call, or of the run's beginning",
        flag=None,
    )
    score_turns: str = parameter(
        "last",
        "which of a conversation's assistant turns are scored, as one mean over their tokens: the last, all, or those "
        "that the row does not leave out of training (trained)",
        choices=WHICH,
    )
    chat_template_kwargs: str | JsonMapping | None = parameter(
        None,
        "what a chat template is told for every row, as a JSON object; what a row tells it itself stands before that",
        metavar="JSON",
    )
    reasoning: str = parameter(
        "keep",
        "of an answer that begins with reasoning, what is scored: all of it, what follows the reasoning (drop), or the "
        "reasoning only",
        choices=("keep", "drop", "only"),
    )
    keep_demonstration_reasoning: bool = parameter(
        False, "leave a demonstration its reasoning, by the chat template's own switch; refused where it has none"
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
        for name, kind, spec in fields_of(type(self)):
            _check(name, kind, spec, getattr(self, name))
        if self.template != AUTO:
            check_template(self.template)
        self.chat_settings()
        read_moment(self.template_date)
        self._check_unread()
        self.check()

    def _check_unread(self) -> None:
        """What only a template reads is refused where none writes the requests, rather than passed over."""
        for name, default in (("score_turns", "last"), ("reasoning", "keep"), ("chat_template_kwargs", None)):
            if not self.uses_template and getattr(self, name) != default:
                raise ValueError(
                    f"{name}: expected {default!r}, as this method shows the model a row's request and last answer in "
                    f"prompts of its own, got {getattr(self, name)!r}"
                )

    def chat_settings(self) -> ChatSettings:
        """How conversations are written and scored; ValueError for `chat_template_kwargs` that are none."""
        parameters = template_kwargs(self.chat_template_kwargs)
        return ChatSettings(self.reasoning, parameters, self.keep_demonstration_reasoning)

    def check(self) -> None:
        """Raise ValueError or TypeError for fields that do not go together."""

    def for_rows(self: Self, count: int) -> Self:
        """These parameters for a pool of `count` rows; raises ValueError where an array has another length."""
        return self


def template_kwargs(given: str | JsonMapping | None) -> JsonObject:
    """What a chat template is told, from a mapping or its JSON text; ValueError for anything else.

    >>> template_kwargs('{"enable_thinking": false}')
    {'enable_thinking': False}
    """
    found: object = given
    if isinstance(given, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(given)
    if given is not None and not isinstance(found, Mapping):
        raise ValueError(f"chat_template_kwargs must be a JSON object, got {given!r}")
    parameters = {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}
    taken = [name for name in parameters if name in TAKEN]
    if taken:
        raise ValueError(f"chat_template_kwargs must not say {taken[0]!r}, which is given to every template")
    return parameters


def now() -> str:
    """The moment of now, as `template_date` says it."""
    return datetime.now().isoformat(timespec="seconds")


def read_moment(text: str | None) -> datetime | None:
    """The moment that a text in ISO 8601 says; ValueError where it says none."""
    try:
        return None if text is None else datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"template_date must be a day such as 2026-07-31, got {text!r}") from None


COMMON = tuple(field.name for field in dataclasses.fields(Parameters) if field.metadata["spec"].flag is None)
OF_CONVERSATIONS = tuple(field.name for field in dataclasses.fields(Parameters) if field.name not in COMMON)


def fields_of(parameters: type[Parameters]) -> list[tuple[str, str, FieldSpec]]:
    """Name, type (as written) and description of each field, a method's own ones first."""
    found = [described(field) for field in dataclasses.fields(parameters)]
    return sorted(found, key=lambda one: (one[0] in COMMON) + (one[0] in COMMON + OF_CONVERSATIONS))


def own_fields(parameters: type[Parameters]) -> list[tuple[str, str, FieldSpec]]:
    """The fields that are flags by their names: those that a method adds, and those that say how turns are scored."""
    return [one for one in fields_of(parameters) if one[0] not in COMMON]


def replaced(parameters: Self, **values: Any) -> Self:
    """The parameters with other values in some fields."""
    return dataclasses.replace(parameters, **values) if values else parameters


def _check(name: str, kind: str, spec: FieldSpec, value: Any) -> None:
    if spec.kind == "value" and spec.choices and value not in spec.choices:
        raise ValueError(f"{name} must be one of {', '.join(spec.choices)}, got {value!r}")
    word = first_word(kind)
    if value is None and "None" in kind:
        return
    if word == "bool" and not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    if word in _BOUNDED and spec.kind == "value" and name not in COMMON:
        is_number = isinstance(value, _BOUNDED[word]) and not isinstance(value, (bool, np.bool_))
        if not is_number or not spec.holds(value):
            raise ValueError(f"{name} must be {spec.expected(word)}, got {value!r}")


def examples_of(name: str, rows: Iterable[object], columns: Mapping[str, str] | None) -> list[Example]:
    """The examples that a parameter of kind "rows" holds; raises ValueError or TypeError naming it."""
    try:
        found = to_examples(rows, columns=columns)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if not found:
        raise ValueError(f"{name} must hold at least one example, got none")
    return found


def numbers_for_rows(name: str, values: object, count: int) -> np.ndarray:
    """Numbers as float64 `[n]`; raises ValueError where they are not numbers or not one for each example."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers [{count}], got {type(values).__name__} of other things") from None
    if array.shape != (count,):
        raise ValueError(f"{name} must be numbers [{count}], one for each example, got shape {list(array.shape)}")
    return array


def numbers_of_column(
    name: str, value: object, choices: tuple[str, ...], present: Sequence[str], read: Callable[[str], Sequence[object]]
) -> object:
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
