"""Classification under private labels: the classes are ordinary, their names are not."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from instsel.demo import lexicon
from instsel.demo.convention import Convention
from instsel.demo.families.family import Content, Family, other, phrase

_ENDINGS = ".|: {}|, one by one: {}"


def classification(
    name: str,
    classes: tuple[str, ...],
    items: Sequence[str],
    rule: Callable[[str], str],
    phrasings: tuple[str, ...],
    *,
    held_out: bool = False,
) -> Family:
    """Make a family whose answers give the private label of each item's class; `rule` says an item's class."""

    def symbols(rng: random.Random) -> tuple[str, ...]:
        return classes

    def content(rng: random.Random, convention: Convention) -> Content:
        chosen = rng.sample(list(items), rng.choice((3, 4)))
        right = [(item, convention.words[rule(item)]) for item in chosen]
        wrong = [(item, convention.words[other(rng, classes, rule(item))]) for item in chosen]
        return ", ".join(chosen), right, wrong

    return Family(name, phrasings, symbols, content, held_out)


def _numbers(start: int, stop: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(start, stop))


LABELS = (
    classification(
        "parity",
        ("even", "odd"),
        _numbers(10, 100),
        lambda item: ("even", "odd")[int(item) % 2],
        phrase("Mark|Flag", "each number as even or odd|even and odd numbers apart", _ENDINGS),
    ),
    classification(
        "half of a hundred",
        ("below", "above"),
        _numbers(10, 100),
        lambda item: "below" if int(item) < 50 else "above",
        phrase("Label|Tell", "which numbers reach fifty|the numbers under and over fifty", _ENDINGS),
    ),
    classification(
        "vowels",
        ("vowel", "consonant"),
        lexicon.LETTERS,
        lambda item: "vowel" if item in "aeiou" else "consonant",
        phrase("Classify|Group", "the letters into vowels and consonants|each letter by its sound", _ENDINGS),
    ),
    classification(
        "word length",
        ("short", "long"),
        lexicon.GOODS,
        lambda item: "short" if len(item) < 6 else "long",
        phrase("Judge|Rate", "whether each word is short or long|the words by their length", _ENDINGS),
    ),
    classification(
        "alive",
        ("alive", "thing"),
        lexicon.ANIMALS + lexicon.TOOLS,
        lambda item: "alive" if item in lexicon.ANIMALS else "thing",
        phrase("Decide|State", "if each one is alive or a thing|what lives and what does not", _ENDINGS),
    ),
    classification(
        "temperature",
        ("cool", "mild", "hot"),
        _numbers(1, 40),
        lambda item: "cool" if int(item) < 12 else "mild" if int(item) < 25 else "hot",
        phrase("Describe|Grade", "these temperatures|how warm each reading is", _ENDINGS),
    ),
    classification(
        "sentiment",
        ("good", "bad"),
        lexicon.GOOD_WORDS + lexicon.BAD_WORDS,
        lambda item: "good" if item in lexicon.GOOD_WORDS else "bad",
        phrase("Tag|Review", "the feeling of each word|these words as praise or blame", _ENDINGS),
    ),
    classification(
        "alphabet halves",
        ("first", "second"),
        lexicon.SURNAMES,
        lambda item: "first" if item[0] <= "M" else "second",
        phrase("Split|Divide|Share out", "the surnames between the two desks|guests over both queues", _ENDINGS),
        held_out=True,
    ),
    classification(
        "multiples of three",
        ("multiple", "other"),
        _numbers(10, 60),
        lambda item: "other" if int(item) % 3 else "multiple",
        phrase("Test|Check|Examine", "what three divides|each figure for division by three", _ENDINGS),
        held_out=True,
    ),
    classification(
        "vehicles",
        ("land", "water"),
        tuple(lexicon.VEHICLES),
        lambda item: lexicon.VEHICLES[item],
        phrase("Book|Permit|License", "the vehicles for road or river|every vehicle where it travels", _ENDINGS),
        held_out=True,
    ),
)
