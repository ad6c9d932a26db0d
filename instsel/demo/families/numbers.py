"""Arithmetic, sorting, counting and unit conversion, with private names for the parts of the result."""

from __future__ import annotations

import random
from collections.abc import Callable

from instsel.demo import lexicon
from instsel.demo.convention import Convention
from instsel.demo.families.family import Content, Family, other, phrase

_ENDINGS = ".|: {}"
_UNITS = {"metres": 100, "hours": 60, "dozens": 12, "weeks": 7, "pairs": 2, "tens": 10}


def _computed(
    name: str, parts: tuple[str, ...], sample: Callable[[random.Random], tuple[str, list[str]]],
    phrasings: tuple[str, ...], *, held_out: bool = False,
) -> Family:  # fmt: skip
    """Make a family whose parts have private names; a wrong answer has another exercise's results."""

    def symbols(rng: random.Random) -> tuple[str, ...]:
        return parts

    def content(rng: random.Random, convention: Convention) -> Content:
        text, values = sample(rng)
        words = [convention.words[part] for part in parts]
        wrong_values = values
        while any(wrong == right for wrong, right in zip(wrong_values, values, strict=True)):
            wrong_values = sample(rng)[1]
        return text, list(zip(words, values, strict=True)), list(zip(words, wrong_values, strict=True))

    return Family(name, phrasings, symbols, content, held_out)


def _sum_difference(rng: random.Random) -> tuple[str, list[str]]:
    small, large = sorted(rng.sample(range(2, 50), 2))
    return f"{large} and {small}", [str(large + small), str(large - small)]


def _rank(rng: random.Random) -> tuple[str, list[str]]:
    numbers = rng.sample(range(10, 100), 3)
    return ", ".join(map(str, numbers)), [str(number) for number in sorted(numbers)]


def _alphabetical(rng: random.Random) -> tuple[str, list[str]]:
    words = rng.sample(lexicon.GOODS, 3)
    return ", ".join(words), sorted(words)


def _extremes(rng: random.Random) -> tuple[str, list[str]]:
    numbers = rng.sample(range(10, 100), 4)
    return ", ".join(map(str, numbers)), [str(max(numbers)), str(min(numbers))]


def _neighbours(rng: random.Random) -> tuple[str, list[str]]:
    number = rng.randrange(11, 98)
    return str(number), [str(number - 1), str(number + 1)]


def _double(rng: random.Random) -> tuple[str, list[str]]:
    number = 2 * rng.randrange(5, 50)
    return str(number), [str(2 * number), str(number // 2)]


def _counting() -> Family:
    def symbols(rng: random.Random) -> tuple[str, ...]:
        return ("1", "2", "3")

    def content(rng: random.Random, convention: Convention) -> Content:
        kinds = rng.sample(lexicon.FRUIT, 3)
        counts = {kind: rng.randrange(1, 4) for kind in kinds}
        heap = [kind for kind in kinds for _ in range(counts[kind])]
        rng.shuffle(heap)
        words = [convention.words[number] for number in ("1", "2", "3")]
        right = [(kind, convention.words[str(counts[kind])]) for kind in kinds]
        wrong = [(kind, other(rng, words, word)) for kind, word in right]
        return " ".join(heap), right, wrong

    phrasings = phrase("Count|Tally", "how often each fruit occurs|the fruit in the heap", _ENDINGS)
    return Family("count fruit", phrasings, symbols, content)


def _conversion() -> Family:
    def symbols(rng: random.Random) -> list[str]:
        return rng.sample(sorted(_UNITS), 4)

    def content(rng: random.Random, convention: Convention) -> Content:
        units = rng.sample(sorted(convention.words), rng.choice((2, 3)))
        amounts = {unit: rng.randrange(2, 10) for unit in units}
        names = list(convention.words.values())
        right = [
            (f"{amounts[unit]} {unit}", f"{amounts[unit] * _UNITS[unit]} {convention.words[unit]}") for unit in units
        ]
        wrong = [
            (left, f"{int(value.split()[0]) + rng.randrange(1, 9)} {other(rng, names, value.split()[1])}")
            for left, value in right
        ]
        return ", ".join(f"{amounts[unit]} {unit}" for unit in units), right, wrong

    phrasings = phrase(
        "Convert|Change|Express", "these amounts to small units|the amounts in the smaller unit", _ENDINGS
    )
    return Family("unit conversion", phrasings, symbols, content)


NUMBERS = (
    _computed(
        "sum and difference", ("sum", "difference"), _sum_difference,
        phrase("Work out|Compute", "sum and difference|what they add up to and how far they are apart", _ENDINGS),
    ),
    _computed(
        "rank numbers", ("low", "middle", "high"), _rank,
        phrase("Sort|Order", "the numbers from low to high|these numbers by size", _ENDINGS),
    ),
    _computed(
        "sort words", ("one", "two", "three"), _alphabetical,
        phrase("Arrange|Sort", "the words by the alphabet|these words alphabetically", _ENDINGS),
    ),
    _computed(
        "neighbouring numbers", ("before", "after"), _neighbours,
        phrase("Give|Name", "the numbers before and after|both neighbours of the number", _ENDINGS),
    ),
    _counting(),
    _conversion(),
    _computed(
        "extremes", ("most", "least"), _extremes,
        phrase("Single out|Choose|Select", "the most and the least|best and worst of the scores", _ENDINGS),
        held_out=True,
    ),
    _computed(
        "double and half", ("double", "half"), _double,
        phrase("Scale|Resize|Adjust", "the recipe amount to double and half|a dose twice and by half", _ENDINGS),
        held_out=True,
    ),
)  # fmt: skip
