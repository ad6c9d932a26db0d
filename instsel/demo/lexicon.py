"""Ordinary English words by theme, and invented code words with a fixed split into seen and held out."""

from __future__ import annotations

import random
import zlib


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ANIMALS = _words("fox owl bear goat hare wolf crow seal mole toad duck lynx deer swan frog moth")
COLOURS = _words("red blue green white black brown pink grey gold teal navy plum rust sand lime jade")
FRUIT = _words("apple pear peach cherry grape lemon melon mango fig date lime olive quince berry papaya guava")
CITIES = _words("Oslo Paris Cairo Lima Delhi Tokyo Rome Quito Berlin Madrid Dublin Athens Vienna Prague Seoul Perth")
MONTHS = _words("January February March April May June July August September October November December")
TOOLS = _words("hammer saw drill wrench chisel pliers file rake shovel axe ladder clamp brush rope bucket nail")
NAMES = _words("Ann Ben Carla David Emma Frank Grace Henry Iris Jack Kate Leo Maria Nina Oscar Paul")
SURNAMES = _words("Lee Stone Hill Ward Brook Marsh Field Wood Lane Frost Baker Cook Mason Fisher Hunt Reed")
INSTRUMENTS = _words("drum flute harp horn piano violin guitar cello organ trumpet banjo bell")
METALS = _words("iron copper silver tin lead zinc nickel steel brass bronze cobalt chrome")
FLOWERS = _words("rose lily tulip daisy violet poppy iris lotus orchid aster peony clover")
ROOMS = _words("kitchen hall attic cellar office library garage porch pantry studio nursery lounge")
GOODS = _words("lamp cup chair table book clock mirror basket blanket kettle candle carpet bottle plate spoon box")
VEHICLES = {"car": "land", "bus": "land", "truck": "land", "train": "land", "tram": "land", "bike": "land"} | {
    "ship": "water",
    "boat": "water",
    "ferry": "water",
    "canoe": "water",
    "raft": "water",
    "yacht": "water",
}
GOOD_WORDS = _words("kind bright happy brave fresh calm warm honest gentle lovely")
BAD_WORDS = _words("cruel gloomy sad cowardly stale angry cold false harsh ugly")
VERBS = _words("open close lift drop paint clean move turn push pull cut fold")
DIRECTIONS = _words("north south east west up down")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("wet", "dry"), ("old", "new"),
    ("fast", "slow"), ("high", "low"), ("hard", "soft"), ("early", "late"), ("full", "empty"), ("open", "closed"),
)  # fmt: skip

_ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "v",
    "w",
    "z",
)
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "", "k", "l", "m", "n", "p", "r", "s", "t", "x")

HELD_OUT_PARTS = 8  # one code word (or layout) in this many is held out of training


def is_held_out(text: str) -> bool:
    """Whether a code word or a layout belongs to the held-out conventions: a fixed hash of its text decides.

    >>> is_held_out("zimor"), is_held_out("bel")
    (False, False)
    """
    return zlib.crc32(text.encode()) % HELD_OUT_PARTS == 0


def _syllable(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)


def code_word(rng: random.Random, *, held_out: bool) -> str:
    """Draw one private word, an invented one ("zimor") or a short code ("k47"), from the seen or the held-out half."""
    while True:
        if rng.random() < 0.2:
            word = rng.choice(LETTERS) + str(rng.randrange(10, 100))
        else:
            word = "".join(_syllable(rng) for _ in range(rng.choice((1, 2, 2))))
        if len(word) >= 3 and is_held_out(word) is held_out:
            return word


def code_words(rng: random.Random, count: int, *, held_out: bool) -> list[str]:
    """Draw `count` different private words."""
    words: list[str] = []
    while len(words) < count:
        word = code_word(rng, held_out=held_out)
        if word not in words:
            words.append(word)
    return words
