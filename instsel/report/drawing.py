"""What every chart is drawn with: colours for light and dark, axes with round values, text, a legend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from instsel.report.text import shortened, visible

# Okabe and Ito's colours, which stay apart for colour-blind readers; on a dark page, lighter ones of the same hues.
PALETTE = (
    ("#009e73", "#35c79b"),
    ("#d55e00", "#ff8a3c"),
    ("#cc79a7", "#e39bc3"),
    ("#e69f00", "#f0b83c"),
    ("#0072b2", "#58aee6"),
    ("#777777", "#a8a8a8"),
    ("#56b4e9", "#a5d8f6"),
    ("#7a5c9e", "#b79ad8"),
)
_INK = {
    "ink": ("#24292f", "#e6e9ec"),
    "muted": ("#5b6570", "#a4adb6"),
    "rule": ("#dde1e6", "#363d45"),
    "paper": ("#ffffff", "#0d1117"),
}
_COLOURS = {f"c{slot}": pair for slot, pair in enumerate(PALETTE)} | _INK
_SIZE = re.compile(r'<svg [^>]*? width="([\d.]+)" height="([\d.]+)"')
_FONT = "system-ui, sans-serif"
_CHARACTER = 0.58  # of a line's size, the width of a character, a wide one in bold type
_SMALLEST = 9
_LARGEST = 1e300  # differences between larger numbers would overflow
TITLE_HEIGHT = 38
LEGEND_LINE = 20


def _rules(place: int) -> str:
    return "".join(f".{name}{{color:{pair[place]}}}" for name, pair in _COLOURS.items())


# For the page around the charts, or for a picture that stands alone.
CHART_STYLE = f"{_rules(0)}@media (prefers-color-scheme:dark){{{_rules(1)}}}"


def coloured(name: str) -> str:
    """The attributes of an element drawn in a colour: a class for `CHART_STYLE`, and the light colour without it."""
    return f'class="{name}" color="{_COLOURS[name][0]}"'


def slot(index: int) -> str:
    """The name of the colour of the class with this number; past the palette's end colours come again."""
    return f"c{index % len(PALETTE)}"


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` laid out from `start` to `stop`, in the units of a drawing."""

    low: float
    high: float
    start: float
    stop: float

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Where values are drawn; those beyond the axis at its end."""
        inside = np.clip(values, self.low, self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.stop - self.start)

    def written(self, value: float, step: float) -> str:
        """A value as text, with the digits that tell it from others a step apart."""
        decimals = max(0, int(-np.floor(np.log10(step) + 1e-9)))
        plain = decimals <= 6 and max(abs(self.low), abs(self.high)) < 1e6
        return f"{value:,.{decimals}f}" if plain else f"{value:.4g}"

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Round values along the axis, each with its text: 1, 2 or 5 times a power of ten apart.

        >>> [text for _, text in Axis(0.0, 1.0, 0, 100).ticks()]
        ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0']
        """
        raw = (self.high - self.low) / count
        power = 10.0 ** np.floor(np.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
        numbers = np.arange(np.ceil(self.low / step - 1e-9), np.floor(self.high / step + 1e-9) + 1)
        values = [float(number * step) + 0.0 for number in numbers]
        return [(value, self.written(value, step)) for value in values]


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """The range of all but the outermost percent on either side, with a margin; outliers are drawn at its edges."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite.clip(-_LARGEST, _LARGEST), [1, 99])
    return widened(float(low), float(high))


def widened(low: float, high: float) -> tuple[float, float]:
    """A range with a margin of a twentieth on either side; around one value a range about as wide as the value."""
    margin = 0.05 * (high - low)
    if margin <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.5 * max(abs(low), abs(high)) or 0.5
    return low - margin, high + margin


def text(
    x: float, y: float, content: str, *, size: int = 12, anchor: str = "start", colour: str = "ink", extra: str = ""
) -> str:
    """One line of text, escaped."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="currentColor" '
        f"{coloured(colour)}{' ' if extra else ''}{extra}>{escape(visible(content))}</text>"
    )


def fitted(content: str, size: int, room: float) -> tuple[str, int]:
    """A line and the size at which it fits: smaller where it is long, and cut where it would be too small to read.

    >>> fitted("a title", 15, 480), fitted("a long title " * 5, 15, 300)[1]
    (('a title', 15), 9)
    """
    fits = int(room / (_CHARACTER * max(1, len(content))))
    size = max(min(size, fits), _SMALLEST)
    return shortened(content, int(room / (_CHARACTER * size))), size


def line(x1: float, y1: float, x2: float, y2: float, *, colour: str = "rule", extra: str = "") -> str:
    """A straight line."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f"{coloured(colour)}{' ' if extra else ''}{extra}/>"
    )


def group(colour: str, parts: Iterable[str], extra: str = "") -> str:
    """Parts drawn in one colour; theirs is `currentColor`."""
    return f'<g {coloured(colour)} fill="currentColor"{" " if extra else ""}{extra}>{"".join(parts)}</g>'


def across(axis: Axis, top: float, bottom: float, label: str, ticks: Sequence[tuple[float, str]] = ()) -> list[str]:
    """The axis below a chart, with lines through it."""
    parts = []
    for value, name in ticks or axis.ticks():
        x = float(axis.place(value))
        parts += [line(x, top, x, bottom), text(x, bottom + 17, name, anchor="middle", colour="muted")]
    shown, size = fitted(label, 12, axis.stop - axis.start)
    return [*parts, text((axis.start + axis.stop) / 2, bottom + 36, shown, size=size, anchor="middle")]


def upward(axis: Axis, left: float, right: float, label: str) -> list[str]:
    """The axis beside a chart, with lines through it."""
    parts = []
    for value, name in axis.ticks():
        y = float(axis.place(value))
        parts += [line(left, y, right, y), text(left - 7, y + 4, name, anchor="end", colour="muted")]
    middle = (axis.start + axis.stop) / 2
    shown, size = fitted(label, 12, abs(axis.stop - axis.start))
    turned = f'transform="rotate(-90 14 {middle:.1f})"'
    return [*parts, text(14, middle, shown, size=size, anchor="middle", extra=turned)]


def legend(names: Sequence[str], top: float, left: float, right: float) -> tuple[list[str], float]:
    """Dots with the names of classes, in as many lines as they need; and how tall it is."""
    parts: list[str] = []
    x, y = left, top + 12
    for index, name in enumerate(names):
        shown = shortened(name, 36)
        wide = 24 + 6.7 * len(shown)
        if x + wide > right and x > left:
            x, y = left, y + LEGEND_LINE
        parts.append(group(slot(index), [f'<circle cx="{x + 5:.1f}" cy="{y - 4:.1f}" r="4.5"/>']))
        parts.append(text(x + 14, y, shown))
        x += wide
    return parts, y - top + 8


def frame(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    """The whole drawing under its title; it shrinks with the page."""
    named = escape(visible(title))
    shown, size = fitted(title, 15, width)
    heading = text(0, 18, shown, size=size, extra='font-weight="600"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:.0f}" width="{width:g}" '
        f'height="{height:.0f}" role="img" aria-label="{named}" font-family="{_FONT}"><title>{named}</title>'
        f"{heading}{''.join(parts)}</svg>"
    )


def arranged(columns: Sequence[Sequence[str]], title: str, *, gap: int = 28) -> str:
    """Charts in columns as one picture that stands alone, with a background of its own."""
    drawn, x, height = [], gap, 0
    for charts in columns:
        y, widest = gap, 0
        for chart in charts:
            wide, tall = (int(float(number)) for number in _SIZE.findall(chart)[0])
            drawn.append(chart.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1))
            y, widest = y + tall + gap, max(widest, wide)
        x, height = x + widest + gap, max(height, y)
    named = escape(visible(title))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x} {height}" width="{x}" height="{height}" role="img" '
        f'aria-label="{named}"><title>{named}</title><style>{CHART_STYLE}</style>'
        f'<rect width="{x}" height="{height}" fill="currentColor" {coloured("paper")}/>{"".join(drawn)}</svg>\n'
    )
