"""A family of instructions, and one exercise drawn from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from instsel.demo.convention import Convention, draw_convention

Pairs = Sequence[tuple[str, str]]
# The text that the instruction is about, the right pairs of the answer, and pairs that are wrong throughout.
Content = tuple[str, Pairs, Pairs]


@dataclass(frozen=True, slots=True)
class Exercise:
    """An instruction with its right answer and with one that has the same form and the wrong content."""

    family: str
    instruction: str
    input: str
    answer: str
    wrong_answer: str


@dataclass(frozen=True, slots=True)
class Family:
    """Instructions of one kind.

    `phrasings` holds "{}" where the content goes into the instruction; without it the content is the input field.
    `symbols` draws what the convention needs private words for; `content` draws one exercise under a convention.
    """

    name: str
    phrasings: tuple[str, ...]
    symbols: Callable[[random.Random], Sequence[str]]
    content: Callable[[random.Random, Convention], Content]
    held_out: bool = False

    def draw_convention(self, rng: random.Random, *, held_out: bool) -> Convention:
        """Draw this family's hidden convention, from the seen or from the held-out ones."""
        return draw_convention(rng, self.symbols(rng), held_out=held_out)

    def draw(self, rng: random.Random, convention: Convention) -> Exercise:
        """Draw one exercise under a convention."""
        text, right, wrong = self.content(rng, convention)
        phrasing = rng.choice(self.phrasings)
        inline = "{}" in phrasing
        return Exercise(
            family=self.name,
            instruction=phrasing.format(text) if inline else phrasing,
            input="" if inline else text,
            answer=convention.layout.render(right),
            wrong_answer=convention.layout.render(wrong),
        )


def other(rng: random.Random, options: Sequence[str], right: str) -> str:
    """Choose an option that is not the right one."""
    return rng.choice([option for option in options if option != right])


def phrase(openings: str, objects: str, endings: str) -> tuple[str, ...]:
    """Combine three lists, separated by `|`, into phrasings.

    >>> phrase("Sort|Order", "these numbers", ".|: {}")
    ('Sort these numbers.', 'Sort these numbers: {}', 'Order these numbers.', 'Order these numbers: {}')
    """
    return tuple(
        f"{opening} {middle}{ending}"
        for opening in openings.split("|")
        for middle in objects.split("|")
        for ending in endings.split("|")
    )
