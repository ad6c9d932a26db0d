"""Charts as SVG text: histograms, a scatter plot, and means with intervals as lines or horizontal bars.

A chart carries its title and units and no background; `instsel.report.drawing.CHART_STYLE` makes it follow a dark page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from instsel.report.drawing import (
    TITLE_HEIGHT,
    Axis,
    across,
    frame,
    group,
    legend,
    line,
    robust_range,
    slot,
    text,
    upward,
    widened,
)
from instsel.report.text import shortened

WIDTH = 480  # as wide as two beside each other on a desktop, and legible when a phone shrinks it
_BINS = 48
_PLOT_HEIGHT = 270
_STROKE = 'stroke="currentColor" stroke-width="1.6" fill="none"'

Point = tuple[float, float, float, float]


def histograms(values: Mapping[str, np.ndarray], *, title: str, axis: str, width: int = WIDTH) -> str:
    """Draw one histogram a class over a shared axis, each scaled to its own highest bar, with its median marked."""
    low, high = robust_range(np.concatenate([np.zeros(0), *values.values()]))
    alone = len(values) == 1
    left, right, row_height = (58 if alone else 16), width - 12, (190 if alone else 58)
    scale = Axis(low, high, left, right)
    bottom = TITLE_HEIGHT + row_height * max(1, len(values))
    parts = across(scale, TITLE_HEIGHT, bottom, axis)
    edges = np.linspace(low, high, _BINS + 1)
    bar = (right - left) / _BINS
    for index, (name, members) in enumerate(values.items()):
        base = TITLE_HEIGHT + row_height * (index + 1)
        finite = members[np.isfinite(members)].clip(low, high)
        counts, _ = np.histogram(finite, edges)
        tallest = max(1, int(counts.max()))
        room = row_height - (14 if alone else 22)
        if alone:
            rows = Axis(0, tallest, base, base - room)
            parts += upward(rows, left, right, "rows")
        boxes = [
            f'<rect x="{left + place * bar + 0.5:.1f}" y="{base - counts[place] / tallest * room:.1f}" '
            f'width="{bar - 1:.1f}" height="{counts[place] / tallest * room:.1f}"/>'
            for place in np.flatnonzero(counts)
        ]
        parts.append(group(slot(index), boxes))
        if not alone:
            parts.append(line(left, base, right, base))
            parts.append(text(left, base - room - 5, f"{shortened(name, 40)} ({len(members):,})"))
        if len(finite):
            x = float(scale.place(float(np.median(finite))))
            parts.append(line(x, base - room - 4, x, base, colour="ink", extra='stroke-width="1.5"'))
    return frame(width, bottom + 46, title, parts)


def scatter(
    x: np.ndarray, y: np.ndarray, classes: Mapping[str, np.ndarray], *, title: str, x_axis: str, y_axis: str,
    width: int = WIDTH,
) -> str:  # fmt: skip
    """Draw the points of each class, given as the rows that are of it; rows without a number are left out."""
    left, right, top, bottom = 66, width - 12, TITLE_HEIGHT, TITLE_HEIGHT + _PLOT_HEIGHT
    over, up = Axis(*robust_range(x), left, right), Axis(*robust_range(y), bottom, top)
    parts = [*across(over, top, bottom, x_axis), *upward(up, left, right, y_axis)]
    usable = np.isfinite(x) & np.isfinite(y)
    opacity = 0.6 if usable.sum() <= 3000 else 0.3
    for index, rows in enumerate(classes.values()):
        drawn = rows[usable[rows]]
        places = zip(over.place(x[drawn]), up.place(y[drawn]), strict=True)
        circles = (f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in places)
        parts.append(group(slot(index), circles, extra=f'fill-opacity="{opacity}"'))
    return _with_legend(classes, bottom + 44, width, title, parts)


def interval_lines(
    series: Mapping[str, Sequence[Point]], *, title: str, x_axis: str, y_axis: str, width: int = WIDTH
) -> str:
    """Draw each series as a line through its points (x, mean, low, high), with the interval of each.

    Points without a mean are left out, and the interval where `low` or `high` is NaN. Series stand a little beside
    each other, so that intervals at the same x can be told apart.
    """
    points = {name: np.array(members, np.float64).reshape(-1, 4) for name, members in series.items()}
    points = {name: array[np.isfinite(array[:, :2]).all(1)] for name, array in points.items()}
    every = np.concatenate([np.zeros((0, 4)), *points.values()])
    left, right, top, bottom = 66, width - 16, TITLE_HEIGHT, TITLE_HEIGHT + _PLOT_HEIGHT
    over, up = Axis(*_range(every[:, 0]), left, right), Axis(*_range(every[:, 1:]), bottom, top)
    parts = [*across(over, top, bottom, x_axis, _own_ticks(over, every[:, 0])), *upward(up, left, right, y_axis)]
    for index, members in enumerate(points.values()):
        members = members[np.argsort(members[:, 0], kind="stable")]
        beside = 5.0 * (index - (len(points) - 1) / 2)
        places = [(float(over.place(x)) + beside, float(up.place(mean))) for x, mean, _, _ in members]
        drawn = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in places]
        for (x, _), (_, _, low, high) in zip(places, members, strict=True):
            if np.isfinite(low) and np.isfinite(high):
                first, last = float(up.place(low)), float(up.place(high))
                drawn.append(f'<path d="M{x - 3:.1f} {first:.1f}h6m-3 0V{last:.1f}m-3 0h6" {_STROKE}/>')
        way = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        if way:
            drawn.append(f'<path d="M{way}" {_STROKE} stroke-opacity="0.6"/>')
        parts.append(group(slot(index), drawn))
    return _with_legend(points, bottom + 44, width, title, parts)


def interval_bars(
    values: Mapping[str, tuple[float, float, float]],
    *,
    title: str,
    axis: str,
    reference: float | None = None,
    origin: float | None = 0.0,
    width: int = WIDTH,
) -> str:
    """Draw a horizontal bar for each (mean, low, high), with its interval, the first one coloured.

    reference: where a dashed line is drawn, such as what chance gives. origin: where bars begin; None draws points
    over the values' own range instead, for differences that are small against the values. A NaN interval is not drawn.
    """
    table = np.array(list(values.values()), np.float64).reshape(-1, 3)
    marks = [mark for mark in (reference, origin) if mark is not None]
    low, high = _range(np.concatenate([table.ravel(), marks]))
    if origin is not None:
        low, high = (origin if low >= origin - 0.1 * (high - origin) else low), (high if high > origin else origin)
    left, right, row_height = 16, width - 64, 40
    bottom = TITLE_HEIGHT + row_height * len(values)
    scale = Axis(low, high, left, right)
    parts = across(scale, TITLE_HEIGHT, bottom, axis)
    for index, (name, (mean, lower, upper)) in enumerate(values.items()):
        y = float(TITLE_HEIGHT + row_height * index)
        parts.append(text(left, y + 13, shortened(name, 60)))
        if not np.isfinite(mean):
            parts.append(text(left, y + 31, "no number", colour="muted"))
            continue
        x, y = float(scale.place(mean)), y + 26
        if origin is None:
            mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        else:
            start = float(scale.place(origin))
            mark = f'<rect x="{min(start, x):.1f}" y="{y - 7:.1f}" width="{abs(x - start):.1f}" height="14" rx="2"/>'
        parts.append(group("c0" if index == 0 else "c5", [mark]))
        end = x
        if np.isfinite(lower) and np.isfinite(upper) and lower < upper:
            first, end = float(scale.place(lower)), float(scale.place(upper))
            whisker = f'<path d="M{first:.1f} {y - 4:.1f}v8m0 -4H{end:.1f}m0 -4v8" {_STROKE}/>'
            parts.append(group("ink", [whisker]))
        parts.append(text(max(x, end) + 7, y + 4, scale.written(mean, (high - low) / 500)))
    if reference is not None:
        x = float(scale.place(reference))
        parts.append(line(x, TITLE_HEIGHT, x, bottom, colour="ink", extra='stroke-dasharray="4 3"'))
    return frame(width, bottom + 46, title, parts)


def _range(values: np.ndarray) -> tuple[float, float]:
    """The range of all finite values, with a margin."""
    finite = values[np.isfinite(values)].clip(-1e300, 1e300)
    return widened(float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _own_ticks(axis: Axis, values: np.ndarray) -> list[tuple[float, str]]:
    """The values themselves where they are few and far enough apart to be written; otherwise none of them."""
    own = np.unique(values)
    apart = np.diff(axis.place(own))
    fits = 0 < len(own) <= 8 and (apart > 34).all()
    return [(float(value), f"{value:,.6g}") for value in own] if fits else []


def _with_legend(names: Iterable[str], top: float, width: int, title: str, parts: list[str]) -> str:
    """The drawing with a legend below it, which a single class does not need."""
    dots, tall = legend(list(names), top, 66, width - 12) if len(list(names)) > 1 else ([], 0.0)
    return frame(width, top + tall, title, [*parts, *dots])
