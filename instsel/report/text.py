"""Text of the data made safe to show: nothing in it is obeyed, and what cannot be seen is named."""

from __future__ import annotations

import re
from html import escape

# Controls that HTML may not hold, marks that turn the order of a line around, and halves of characters.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffc\ufffe\uffff]"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def _named(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def visible(text: str) -> str:
    r"""Text in which every control character, direction override and zero width is written out.

    >>> visible("a\x00b\u202ec\ud800")
    'a␀b⟨U+202E⟩c�'
    """
    return _UNSEEN.sub(_named, _SURROGATES.sub("\ufffd", text.replace("\r\n", "\n")))


def shortened(text: str, limit: int) -> str:
    """The beginning of a text, with an ellipsis where it goes on.

    >>> shortened("a long name", 6)
    'a lon…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def shown(text: str, limit: int) -> str:
    """The beginning of a text as HTML, and how much of it is left out."""
    rest = len(text) - limit
    more = f'<span class="more"> … {rest:,} more characters</span>' if rest > 0 else ""
    return escape(visible(text[:limit])) + more
