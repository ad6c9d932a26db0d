"""Families that are made up for one training sequence: nonsense themes, of which only the examples tell anything.

A model that has seen thirty families knows thirty; one that has seen thousands, no two alike, has to learn to read
the examples before it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from instsel.demo import lexicon
from instsel.demo.families.family import Family, phrase
from instsel.demo.families.labels import classification
from instsel.demo.families.records import Fields, record
from instsel.demo.families.tables import table

_KNOWN = (
    lexicon.ANIMALS + lexicon.COLOURS + lexicon.FRUIT + lexicon.CITIES + lexicon.MONTHS + lexicon.TOOLS
    + lexicon.NAMES + lexicon.INSTRUMENTS + lexicon.GOODS + lexicon.VERBS + lexicon.DAYS
)  # fmt: skip


def draw_made_up_family(rng: random.Random) -> Family:
    """Draw a family: a table, a classification or a record, with a theme and phrasings of known and invented words."""
    return rng.choice((_table, _table, _classification, _record))(rng, _phrasings(rng))


def _words(rng: random.Random, count: int) -> list[str]:
    """Draw different words, all known, all invented, or numbers."""
    kind = rng.random()
    if kind < 0.1:
        return [str(number) for number in rng.sample(range(1, 100), count)]
    if kind < 0.5:
        return rng.sample(_KNOWN, count)
    words: list[str] = []
    while len(words) < count:
        word = lexicon.code_word(rng, held_out=False) + lexicon.code_word(rng, held_out=False) * (rng.random() < 0.3)
        if word not in words:
            words.append(word)
    return words


def _phrasings(rng: random.Random) -> tuple[str, ...]:
    verbs = "|".join(word.capitalize() for word in _words(rng, 2))
    objects = "|".join(rng.choice((f"the {a}s for {b}", f"these {a} {b}s", f"each {a} of the {b}", f"{a} and {b}"))
                       for a, b in (_words(rng, 2), _words(rng, 2)))  # fmt: skip
    return phrase(verbs, objects, ".|: {}")


def _table(rng: random.Random, phrasings: tuple[str, ...]) -> Family:
    return table("made-up table", _words(rng, 8), phrasings)


def _classification(rng: random.Random, phrasings: tuple[str, ...]) -> Family:
    classes = ("first", "second", "third")[: rng.choice((2, 2, 3))]
    items = _words(rng, rng.choice((6, 10)))
    labels = {item: rng.choice(classes) for item in items}
    return classification("made-up classes", classes, items, labels.__getitem__, phrasings)


def _record(rng: random.Random, phrasings: tuple[str, ...]) -> Family:
    fields = ("one", "two", "three")
    values = [_words(rng, 12) for _ in fields]
    glue = [rng.choice((" ", ", ", " of ", " for ", " on ", " to the ", f" {word} ")) for word in _words(rng, 2)]
    order = rng.sample(range(3), 3)
    return record("made-up record", fields, _sampler(values, glue, order, fields), phrasings)


def _sampler(
    values: list[list[str]], glue: list[str], order: list[int], fields: tuple[str, ...]
) -> Callable[[random.Random], tuple[str, Fields]]:
    def sample(rng: random.Random) -> tuple[str, Fields]:
        chosen = [rng.choice(column) for column in values]
        first, second, third = (chosen[place] for place in order)
        return f"{first}{glue[0]}{second}{glue[1]}{third}", dict(zip(fields, chosen, strict=True))

    return sample
