"""The project's docstrings as reStructuredText: aligned lists of names, indented formulas, plain backquotes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_CODE = re.compile(r"(:\w+:)?(`+)(.+?)\2", re.DOTALL)
_ENTRY = re.compile(r"(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*)(?P<gap> {1,})(?P<text>\S.*)")
_MARKUP = re.compile(r"([*|\\]|_(?!\w))")


def to_rst(lines: Sequence[str]) -> list[str]:
    """A docstring's lines as reStructuredText.

    >>> to_rst(["Adds `a`.", "", "    a + b", "", "a   a number", "bb  another,", "    of two lines"])[:3]
    ['Adds ``a``.', '', '::']
    >>> to_rst(["a    first", "     and more", "longer  second"])
    ['``a``', '    first', '    and more', '``longer``', '    second', '']
    """
    found: list[str] = []
    for paragraph in _paragraphs(lines):
        found += [*_converted(paragraph), ""]
    return found


def _paragraphs(lines: Sequence[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.rstrip())
        elif paragraph:
            yield paragraph
            paragraph = []


def _converted(paragraph: list[str]) -> list[str]:
    if paragraph[0].lstrip().startswith(">>>"):
        return paragraph
    if all(line.startswith("    ") for line in paragraph):
        return ["::", "", *paragraph]
    entries = _entries(paragraph)
    if entries:
        return [line for names, text in entries for line in _definition(names, text)]
    return _bulleted(_inline("\n".join(paragraph)).split("\n"))


def _entries(paragraph: list[str]) -> list[tuple[str, list[str]]]:
    """Names and their descriptions where the lines are an aligned list, the descriptions beginning in one column, or
    two spaces behind a name that reaches into it."""
    found: list[tuple[str, list[str]]] = []
    column = 0
    for line in paragraph:
        entry = _ENTRY.fullmatch(line)
        reaches = entry is not None and entry.end("names") >= column and len(entry["gap"]) == 2
        if entry is not None and (not found or entry.start("text") == column or reaches):
            column = column or entry.start("text")
            found.append((entry["names"], [entry["text"]]))
        elif found and line.startswith(" " * column):
            found[-1][1].append(line[column:])
        else:
            return []
    wide = any("  " in line[:column] for line in paragraph if line[:1] != " ")
    return found if wide or len(found) > 1 else []


def _definition(names: str, text: list[str]) -> list[str]:
    shown = ", ".join(f"``{name}``" for name in names.split(", "))
    return [shown, *(f"    {line}" for line in _inline("\n".join(text)).split("\n"))]


def _inline(text: str) -> str:
    """Single backquotes as code, and what means something else in reStructuredText taken literally."""
    found, end = "", 0
    for code in _CODE.finditer(text):
        found += _MARKUP.sub(r"\\\1", text[end : code.start()])
        found += code[0] if code[1] else f"``{code[3]}``"
        end = code.end()
    return found + _MARKUP.sub(r"\\\1", text[end:])


def _bulleted(lines: list[str]) -> list[str]:
    """With an empty line before the first point of a list."""
    found: list[str] = []
    for line in lines:
        if line.startswith("- ") and found and not found[-1].startswith(("- ", "  ")):
            found.append("")
        found.append(line)
    return found
