"""Text for a terminal: one line a message, and nothing in it that the terminal would obey."""

from __future__ import annotations

import logging
import sys
import unicodedata
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
# Control, format (right-to-left marks, zero widths), surrogate, private use, line and paragraph separators.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_REMARKING = ("torchao", "torch.utils._pytree")  # loggers; transformers' has a variable of its own
MAX_CHARACTERS = 600  # of one message


def escaped(text: str, *, limit: int = MAX_CHARACTERS) -> str:
    r"""Text with every character that a terminal may act on written as its code, at most `limit` characters of it.

    >>> escaped("a\x1b[31m\u202eb\n")
    'a\\x1b[31m\\u202eb\\n'
    """
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in _UNPRINTABLE else character
        for character in text
    )


def say(text: str) -> None:
    """Print lines of our own making to standard output; data in them must be escaped before."""
    print(text.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))


def complain(kind: str, text: str) -> None:
    """Print one line `instsel: KIND: text` to standard error."""
    line = f"instsel: {kind}: {escaped(' '.join(text.split()))}\n"
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding))
    sys.stderr.flush()


def drop_remarks() -> None:
    """Drop what packages log when they are imported, of kernels that they have not and of each other."""
    for name in _REMARKING:
        logging.getLogger(name).setLevel(logging.ERROR)


def show_own_warnings() -> None:
    """From now on the package's warnings are one line each and said once; those of other packages are dropped."""
    drop_remarks()
    said: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None):  # type: ignore[no-untyped-def]
        text = str(message)
        own = filename.startswith(_PACKAGE) or category.__module__.partition(".")[0] == "instsel"
        if own and text not in said:
            said.add(text)
            complain("warning", text)

    warnings.showwarning = show
