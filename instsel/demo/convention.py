"""A convention: what an instruction leaves open and one demonstration shows.

It has private words (for the keys, labels or fields of a family) and a layout (what stands before, between and after
the parts of an answer).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from instsel.demo.lexicon import code_word, code_words, is_held_out

_PAIRINGS = ("=", ":", "->", "/", "~", "|", "_", ">", "#", ": ", " is ", " as ", " - ", " = ")
_JOINTS = (", ", "; ", " | ", " & ", " and ", " / ", " + ", " * ", " then ", " ")
_BRACKETS = (("", ""), ("", "."), ("[", "]"), ("<", ">"), ("(", ")"), ("{", "}"), ("", " end"), ("* ", ""), ("", "!"))
_CASES = ("lower", "lower", "upper", "title")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the parts of an answer are set: `opening lead left pairing right joint left pairing right ... closing`."""

    opening: str
    lead: str
    pairing: str
    joint: str
    closing: str

    def render(self, pairs: Sequence[tuple[str, str]]) -> str:
        r"""Set pairs of text as one line; every answer ends with a line feed.

        >>> Layout("[", "", "=", ", ", "]").render([("fox", "zim"), ("owl", "bel")])
        '[fox=zim, owl=bel]\n'
        """
        body = self.joint.join(f"{left}{self.pairing}{right}" for left, right in pairs)
        return f"{self.opening}{self.lead}{body}{self.closing}\n"


@dataclass(frozen=True, slots=True)
class Convention:
    """The private words of a family's symbols, and its layout."""

    words: dict[str, str]
    layout: Layout


def _draw_layout(rng: random.Random, *, held_out: bool) -> Layout:
    while True:
        opening, closing = rng.choice(_BRACKETS)
        lead = ""
        if rng.random() < 0.4:
            lead = code_word(rng, held_out=held_out) + rng.choice((": ", " ", "> "))
        layout = Layout(opening, lead, rng.choice(_PAIRINGS), rng.choice(_JOINTS), closing)
        if is_held_out(repr((opening, layout.pairing, layout.joint, closing))) is held_out:
            return layout


def draw_convention(rng: random.Random, symbols: Sequence[str], *, held_out: bool) -> Convention:
    """Draw a convention for a family's symbols; held-out words and layouts never occur in the training text."""
    case = rng.choice(_CASES)
    words = [getattr(word, case)() for word in code_words(rng, len(symbols), held_out=held_out)]
    return Convention(dict(zip(symbols, words, strict=True)), _draw_layout(rng, held_out=held_out))
