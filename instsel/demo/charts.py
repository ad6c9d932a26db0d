"""Charts as SVG text: histograms one above another, a scatter plot, and horizontal bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = {
    "clean": "#009e73",
    "wrong answer": "#d55e00",
    "other instruction": "#cc79a7",
    "truncated": "#e69f00",
    "noisy text": "#0072b2",
    "duplicate": "#777777",
}
_FONT = 'font-family="system-ui, sans-serif"'


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round values that cover a range, 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / count
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = np.ceil(low / step) * step
    return [float(round(value, 10)) + 0.0 for value in np.arange(first, high + step * 1e-6, step)]


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """The range of all but the outermost percent on either side, with a margin; outliers are drawn at its edges."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0.0, 1.0
    low, high = np.percentile(finite, [1, 99])
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", extra: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#333" {_FONT} {extra}>'
        f"{escape(text)}</text>"
    )


def _frame(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>'
    )


def histograms(values: Mapping[str, np.ndarray], *, title: str, axis: str, width: int = 560) -> str:
    """Draw one histogram a class over a shared axis, each scaled to its own highest bar, with its median marked."""
    low, high = robust_range(np.concatenate(list(values.values())))
    left, top, row_height = 150, 34, 46
    bottom = top + row_height * len(values)
    scale = (width - left - 20) / (high - low)
    parts = [_text(left, 20, title, size=14)]
    for tick in _ticks(low, high):
        x = left + (tick - low) * scale
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(_text(x, bottom + 16, f"{tick:g}", anchor="middle"))
    edges = np.linspace(low, high, 49)
    for index, (name, members) in enumerate(values.items()):
        base = top + row_height * (index + 1) - 4
        finite = members[np.isfinite(members)].clip(low, high)
        counts, _ = np.histogram(finite, edges)
        unit = (row_height - 10) / max(1, counts.max())
        bar = scale * (edges[1] - edges[0])
        for place in np.flatnonzero(counts):
            tall = counts[place] * unit
            parts.append(
                f'<rect x="{left + place * bar:.1f}" y="{base - tall:.1f}" width="{bar:.1f}" height="{tall:.1f}" '
                f'fill="{COLOURS[name]}"/>'
            )
        parts.append(_text(left - 10, base - 12, f"{name} ({len(members)})", anchor="end"))
        if len(finite):
            x = left + (float(np.median(finite)) - low) * scale
            parts.append(
                f'<line x1="{x:.1f}" y1="{base - row_height + 8:.1f}" x2="{x:.1f}" y2="{base + 3:.1f}" stroke="#000"/>'
            )
    parts.append(_text(left + (width - left - 20) / 2, bottom + 34, axis, anchor="middle"))
    return _frame(width, bottom + 44, title, parts)


def scatter(
    x: np.ndarray, y: np.ndarray, classes: np.ndarray, *, title: str, x_axis: str, y_axis: str, width: int = 560
) -> str:
    """Draw points coloured by class, with a legend; rows without a number are left out."""
    height, left, top, bottom, right = 420, 64, 34, 366, width - 20
    (x_low, x_high), (y_low, y_high) = robust_range(x), robust_range(y)
    x_scale, y_scale = (right - left) / (x_high - x_low), (bottom - top) / (y_high - y_low)
    parts = [_text(left, 20, title, size=14)]
    for tick in _ticks(x_low, x_high):
        place = left + (tick - x_low) * x_scale
        parts.append(f'<line x1="{place:.1f}" y1="{top}" x2="{place:.1f}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(_text(place, bottom + 16, f"{tick:g}", anchor="middle"))
    for tick in _ticks(y_low, y_high):
        place = bottom - (tick - y_low) * y_scale
        parts.append(f'<line x1="{left}" y1="{place:.1f}" x2="{right}" y2="{place:.1f}" stroke="#ddd"/>')
        parts.append(_text(left - 6, place + 4, f"{tick:g}", anchor="end"))
    for name, colour in COLOURS.items():
        rows = np.flatnonzero((classes == name) & np.isfinite(x) & np.isfinite(y))
        across = left + (x[rows].clip(x_low, x_high) - x_low) * x_scale
        up = bottom - (y[rows].clip(y_low, y_high) - y_low) * y_scale
        points = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.2"/>' for a, b in zip(across, up, strict=True))
        parts.append(f'<g fill="{colour}" fill-opacity="0.55">{points}</g>')
    parts.append(_text((left + right) / 2, bottom + 34, x_axis, anchor="middle"))
    middle = (top + bottom) / 2
    parts.append(_text(16, middle, y_axis, anchor="middle", extra=f'transform="rotate(-90 16 {middle:.1f})"'))
    place = float(left)
    for name, colour in COLOURS.items():
        parts.append(f'<circle cx="{place + 4:.1f}" cy="{height - 8}" r="4" fill="{colour}"/>')
        parts.append(_text(place + 11, height - 4, name, size=11))
        place += 24 + 6.0 * len(name)
    return _frame(width, height, title, parts)


def bars(values: Mapping[str, float], *, title: str, axis: str, width: int = 560, reference: float = 0.5) -> str:
    """Draw horizontal bars of values between 0 and 1, with a dashed line at what chance gives."""
    left, top, row_height = 150, 34, 26
    bottom = top + row_height * len(values)
    scale = width - left - 70
    parts = [_text(left, 20, title, size=14)]
    for index, (name, value) in enumerate(values.items()):
        y = top + row_height * index
        parts.append(_text(left - 10, y + 17, name, anchor="end"))
        parts.append(
            f'<rect x="{left}" y="{y + 4}" width="{max(0.0, value) * scale:.1f}" height="{row_height - 8}" '
            f'fill="{"#009e73" if index == 0 else "#999"}"/>'
        )
        parts.append(_text(left + max(0.0, value) * scale + 6, y + 17, f"{value:.2f}"))
    x = left + reference * scale
    parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="#333" stroke-dasharray="4 3"/>')
    parts.append(_text(left + scale / 2, bottom + 18, axis, anchor="middle"))
    return _frame(width, bottom + 28, title, parts)
