"""Small private translation tables: each key of a theme has its own invented word."""

from __future__ import annotations

import random
from collections.abc import Sequence

from instsel.demo import lexicon
from instsel.demo.convention import Convention
from instsel.demo.families.family import Content, Family, other, phrase

KEYS_IN_USE = 6  # how many keys of its theme one table has
_ENDINGS = ".|: {}|, please: {}"


def table(name: str, keys: Sequence[str], phrasings: tuple[str, ...], *, held_out: bool = False) -> Family:
    """Make a family whose answers give the private word of each key."""

    def symbols(rng: random.Random) -> list[str]:
        return rng.sample(list(keys), KEYS_IN_USE)

    def content(rng: random.Random, convention: Convention) -> Content:
        words = convention.words
        chosen = rng.sample(sorted(words), rng.choice((3, 4)))
        right = [(key, words[key]) for key in chosen]
        wrong = [(key, other(rng, list(words.values()), words[key])) for key in chosen]
        return ", ".join(chosen), right, wrong

    return Family(name, phrasings, symbols, content, held_out)


TABLES = (
    table(
        "translate animals",
        lexicon.ANIMALS,
        phrase("Translate|Put", "these animals into the island tongue|the animal words into island speech", _ENDINGS),
    ),
    table(
        "paint codes",
        lexicon.COLOURS,
        phrase("Give|Write|List", "the paint codes of these colours|our code for each colour", _ENDINGS),
    ),
    table(
        "fruit stalls",
        lexicon.FRUIT,
        phrase("Name|Tell me", "the stall for each fruit|where each fruit is sold", _ENDINGS),
    ),
    table(
        "station signs",
        lexicon.CITIES,
        phrase("Look up|Find", "the station sign of every city|the sign for these cities", _ENDINGS),
    ),
    table(
        "month names",
        lexicon.MONTHS,
        phrase("Rename|Convert", "these months to the old calendar|the months as the old calendar has them", _ENDINGS),
    ),
    table(
        "tool shelves",
        lexicon.TOOLS,
        phrase("Say|Show", "which shelf each tool is on|the shelf of these tools", _ENDINGS),
    ),
    table(
        "nicknames",
        lexicon.NAMES,
        phrase("Replace|Swap", "each person by the nickname|these people for their nicknames", _ENDINGS),
    ),
    table(
        "orchestra parts",
        lexicon.INSTRUMENTS,
        phrase("Note|Print", "the part mark of every instrument|the mark that each instrument has", _ENDINGS),
    ),
    table(
        "metal stamps",
        lexicon.METALS,
        phrase("Report|Mention|Record", "the stamp used on each metal|how we stamp these metals", _ENDINGS),
        held_out=True,
    ),
    table(
        "flower beds",
        lexicon.FLOWERS,
        phrase("Assign|Plant|Place", "the flowers to their garden beds|each flower in the bed it has", _ENDINGS),
        held_out=True,
    ),
    table(
        "room keys",
        lexicon.ROOMS,
        phrase("Hand out|Fetch|Get", "the key tag for every room|the tags of these rooms", _ENDINGS),
        held_out=True,
    ),
)
