"""Pieces of HTML that sections are made of; what comes from data is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from instsel.report.text import shortened, visible

_PARAGRAPH = 3000  # characters
_FEW_SECONDS, _MINUTE, _HOUR = 10, 60, 3600


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its title, ready HTML or SVG below it, and a shorter name for the page's contents."""

    title: str
    body: str
    name: str = ""

    def html(self, anchor: str) -> str:
        """The section, to be found by `#anchor`."""
        return f'<section id="{anchor}"><h2>{text(self.title)}</h2>\n{self.body}\n</section>'


def text(content: object, limit: int = 300) -> str:
    """Anything as escaped text, the beginning of it where it is longer than a name or a setting is."""
    return escape(visible(shortened(str(content), limit)))


def paragraph(content: str, *, muted: bool = False) -> str:
    """A paragraph of text."""
    return f"<p{' class=muted' if muted else ''}>{text(content, _PARAGRAPH)}</p>"


def number(value: float, digits: int = 4) -> str:
    """A number with the digits that matter; "none" where there is no number.

    >>> number(0.0123456), number(1234567.0), number(12.0), number(float("nan"))
    ('0.01235', '1,234,567', '12', 'none')
    """
    if not math.isfinite(value):
        return "none" if math.isnan(value) else str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e15:
        decimals = 0 if value == int(value) else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def share(part: float, whole: float) -> str:
    """A share as a percentage; nothing of nothing is none."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


def seconds(value: float) -> str:
    """A time as a person says it.

    >>> seconds(3.21), seconds(75), seconds(7500)
    ('3.2 s', '1 min 15 s', '2 h 05 min')
    """
    if value < _MINUTE:
        return f"{value:.1f} s" if value < _FEW_SECONDS else f"{value:.0f} s"
    whole = round(value)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Iterable[int] = ()) -> str:
    """Ready HTML cells as a table; `numbers` are the columns that hold numbers, set to the right."""
    right = set(numbers)
    kind = [' class="number"' if place in right else "" for place in range(len(head))]
    top = "".join(f"<th{one}>{text(name)}</th>" for one, name in zip(kind, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{one}>{cell}</td>" for one, cell in zip(kind, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure(svg: str, caption: str) -> str:
    """A chart with one sentence on how to read it."""
    return f"<figure>{svg}<figcaption>{text(caption, _PARAGRAPH)}</figcaption></figure>"


def figures(*several: str) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="figures">{"".join(several)}</div>'


def tile(value: str, name: str) -> str:
    """A figure that is seen first, and what it is."""
    return f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>'


def details(summary: str, body: str) -> str:
    """Something that is unfolded when it is wanted."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def dot(colour: str, name: str) -> str:
    """A name with the dot of its colour."""
    return f'<span class="dot {colour}"></span>{text(name)}'


def bar(value: float, largest: float) -> str:
    """A bar as long as a share of the largest value."""
    return f'<span class="bar c0" style="width:{100 * value / largest if largest else 0:.1f}%"></span>'
