"""How much of a text repeats what stands in it before."""

from __future__ import annotations

import re

REPEATED = 0.3  # share of repeated 4-grams above which an answer is taken to repeat itself
_GRAM = 4  # words
_WORD = re.compile(r"\w+|[^\w\s]")


def repeated_share(text: str) -> float:
    """The share of a text's 4-grams of words that stand in it before: `1 - distinct / all`; 0 for fewer than two.

    Source: seq-rep-4 of arXiv 1908.04319, over words and marks in place of a model's tokens.

    >>> repeated_share("the cat and the cat and the cat and the cat")
    0.625
    """
    grams = grams_of(text)
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 and len(grams[0]) == _GRAM else 0.0


def grams_of(text: str) -> list[tuple[str, ...]]:
    """The runs of four words and marks of a text, in order; of a shorter text all of it, which may be nothing."""
    words = words_of(text)
    return [tuple(words[i : i + _GRAM]) for i in range(max(1, len(words) - _GRAM + 1))]


def words_of(text: str) -> list[str]:
    """Words and marks, without case."""
    return _WORD.findall(text.casefold())
