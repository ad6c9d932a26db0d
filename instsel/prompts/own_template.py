"""A prompt template of one's own: a text with places for the instruction and the input."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from instsel.records import Example

_PLACES = re.compile(r"\{(instruction|input)\}")
BETWEEN = "\n\n"  # between an earlier answer and the next prompt


class MissingInputError(ValueError):
    """An example has an input, and the template no place for it."""


@dataclass(frozen=True, slots=True)
class OwnTemplate:
    """Two texts with {instruction}: one for examples with an input, one for those without; other braces stay.

    An earlier turn is the text filled with it and its answer, and so is a demonstration; a blank line follows each. A
    system turn stands above all.
    """

    with_input: str
    without_input: str

    def context(self, example: Example, demonstration: Example | None = None) -> str:
        """What stands before the example's answer, with a demonstration before that."""
        before = "" if demonstration is None else self._prompt(demonstration) + demonstration.response + BETWEEN
        return before + self._prompt(example)

    def _prompt(self, example: Example) -> str:
        turns = []
        for role, text in example.history:
            turns.append(self._filled(text, "") if role == "user" else text + BETWEEN)
        return "".join(turns) + self._filled(example.instruction, example.input)

    def _filled(self, instruction: str, given: str) -> str:
        text = self.with_input if given.strip() else self.without_input
        if given.strip() and "{input}" not in text:
            raise MissingInputError(f"the example has an input, and the template has no {{input}} for it: {text!r}")
        values = {"instruction": instruction, "input": given if given.strip() else ""}
        return _PLACES.sub(lambda place: values[place[1]], text)


@functools.lru_cache(maxsize=64)
def own_template(with_input: str, without_input: str) -> OwnTemplate:
    """The template of two texts; ValueError for one that has no place for the instruction.

    >>> own_template("Q: {instruction} ({input})\\nA: ", "Q: {instruction}\\nA: ").context(Example("Add 1 and 2."))
    'Q: Add 1 and 2.\\nA: '
    """
    for text in (with_input, without_input):
        if "{instruction}" not in text:
            raise ValueError(f"template must contain {{instruction}}, got {text!r}")
    return OwnTemplate(with_input, without_input)
