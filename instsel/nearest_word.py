"""Words that may have been misspelt: the nearest of those that are known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that one may have been meant to be, if any.

    >>> nearest("wcii", ["score", "ifd", "wici"]), nearest("frobnicate", ["score", "ifd", "wici"])
    ('wici', None)
    """
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)), None)
