"""Charts: whole XML whatever the data holds, and marks where the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from math import inf, nan

import numpy as np
import pytest

from instsel.report.charts import histograms, interval_bars, interval_lines, scatter
from instsel.report.drawing import PALETTE, Axis, arranged, robust_range

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</svg><script>alert(1)</script>\"'&\x00\u202e\ud800" + "x" * 10_000


def whole(svg: str) -> ET.Element:
    """The parsed drawing; no coordinate of it may be no number."""
    root = ET.fromstring(svg)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name not in ("aria-label", "class"):
                assert "nan" not in value and "inf" not in value, (name, value)
    return root


def of_colour(root: ET.Element, name: str, mark: str) -> list[dict[str, str]]:
    return [one.attrib for g in root.iter(f"{SVG}g") if g.get("class") == name for one in g.iter(f"{SVG}{mark}")]


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0),
        np.full(3, 2.0),
        np.full(3, nan),
        np.array([-1e9, 0.0, 1e-9, 1e9, inf, nan]),
        np.array([-1e308, 1e308]),
        np.array([5e-324, 1e-310]),
        1e12 + np.arange(5) * 1e-3,
    ],
)
def test_charts_survive_what_data_can_be(values: np.ndarray) -> None:
    rows = np.arange(len(values))
    whole(histograms({"a": values, HOSTILE: values}, title=HOSTILE, axis="x"))
    whole(histograms({"a": values}, title="t", axis="x"))
    whole(scatter(values, values[::-1], {"a": rows, HOSTILE: rows}, title="t", x_axis="x", y_axis=HOSTILE))
    points = [(float(v), float(v), float(v), float(v)) for v in values]
    whole(interval_lines({"a": points, HOSTILE: []}, title="t", x_axis="x", y_axis="y"))
    triples = {f"{HOSTILE}{i}": (float(v), float(v), float(v)) for i, v in enumerate(values)}
    whole(interval_bars(triples, title="t", axis="x", reference=0.5))
    whole(interval_bars(triples, title="t", axis="x", origin=None))


def test_nothing_at_all_is_drawn_as_nothing() -> None:
    whole(histograms({}, title="t", axis="x"))
    whole(scatter(np.zeros(0), np.zeros(0), {}, title="t", x_axis="x", y_axis="y"))
    whole(interval_lines({}, title="t", x_axis="x", y_axis="y"))
    whole(interval_bars({}, title="t", axis="x"))


def test_a_point_for_each_row_with_both_numbers() -> None:
    x, y = np.array([0.0, 1.0, nan, 3.0]), np.array([1.0, inf, 2.0, 4.0])
    root = whole(scatter(x, y, {"odd": np.array([1, 3]), "even": np.array([0, 2])}, title="t", x_axis="x", y_axis="y"))
    assert len(of_colour(root, "c0", "circle")) == 2  # row 3, and the dot of the legend
    assert len(of_colour(root, "c1", "circle")) == 2  # row 0


def test_a_histogram_holds_every_row_and_marks_the_median() -> None:
    values = np.r_[np.linspace(0, 1, 1001), 50.0]  # one beyond the axis, in its last bar
    root = whole(histograms({"scores": values}, title="t", axis="x"))
    heights = np.array([float(box["height"]) for box in of_colour(root, "c0", "rect")])
    counts, _ = np.histogram(values.clip(*robust_range(values)), np.linspace(*robust_range(values), 49))
    np.testing.assert_allclose(heights / heights.max(), counts[counts > 0] / counts.max(), atol=0.002)
    assert counts.sum() == 1002


def test_an_interval_is_drawn_from_low_to_high() -> None:
    """Heights on the paper are proportional to the numbers, and a point without an interval has a point alone."""
    series = {"a": [(1.0, 2.0, 1.0, 4.0), (2.0, 3.0, nan, nan), (3.0, nan, 0.0, 9.0)]}
    root = whole(interval_lines(series, title="t", x_axis="x", y_axis="y"))
    points = of_colour(root, "c0", "circle")
    paths = [one["d"] for one in of_colour(root, "c0", "path")]
    whiskers = [re.fullmatch(r"M\S+ (\S+)h6m-3 0V(\S+)m-3 0h6", path) for path in paths]
    (found,) = [one for one in whiskers if one]
    low, high = float(found[1]), float(found[2])
    first, second = float(points[0]["cy"]), float(points[1]["cy"])
    assert len(points) == 2 and low > first > high
    assert (low - high) / (first - second) == pytest.approx((4 - 1) / (3 - 2), abs=0.02)


def test_bars_end_at_their_means_and_whiskers_at_their_intervals() -> None:
    values = {"a": (0.6, 0.5, 0.8), "b": (0.3, nan, nan), "c": (-0.2, -0.3, -0.1), "d": (nan, nan, nan)}
    root = whole(interval_bars(values, title="t", axis="x"))
    boxes = [*of_colour(root, "c0", "rect"), *of_colour(root, "c5", "rect")]
    widths = [float(box["width"]) for box in boxes]
    assert widths[0] / widths[1] == pytest.approx(2, abs=0.01) and widths[1] / widths[2] == pytest.approx(1.5, abs=0.01)
    assert float(boxes[2]["x"]) + widths[2] == pytest.approx(float(boxes[0]["x"]), abs=0.2)
    whisker = re.fullmatch(r"M(\S+) \S+ ?v8m0 -4H(\S+)m0 -4v8", of_colour(root, "ink", "path")[0]["d"])
    assert whisker is not None
    assert (float(whisker[2]) - float(whisker[1])) / widths[0] == pytest.approx(0.5, abs=0.01)
    assert "no number" in texts(root) and "0.600" in texts(root)


def test_ticks_are_round_and_within_the_axis() -> None:
    for low, high in [(0, 1), (-3.7, 12.2), (1e-7, 3e-7), (123456, 123460), (-1e8, 1e8)]:
        ticks = Axis(low, high, 0, 100).ticks()
        values = np.array([value for value, _ in ticks])
        assert 3 <= len(ticks) <= 7 and len({name for _, name in ticks}) == len(ticks)
        assert (values >= low - 1e-9 * abs(low)).all() and (values <= high + 1e-9 * abs(high)).all()
        for value, name in ticks:
            assert float(name.replace(",", "")) == pytest.approx(value, rel=1e-3, abs=(high - low) * 1e-6)


def test_outliers_do_not_squeeze_the_axis() -> None:
    low, high = robust_range(np.r_[np.linspace(0, 1, 1000), 1e6, -1e6])
    assert -0.2 < low <= 0.01 and 0.99 <= high < 1.2


def test_a_picture_is_one_drawing_with_a_background_and_both_schemes() -> None:
    chart = interval_bars({"a": (1.0, nan, nan)}, title="t", axis="x")
    text = arranged([[chart, chart], [chart]], "a < b")
    root = whole(text)
    placed = [(float(one.get("x", 0)), float(one.get("y", 0))) for one in root.findall(f"{SVG}svg")]
    assert len(set(placed)) == 3 and placed[0][0] == placed[1][0] < placed[2][0]
    assert all(colour in text for pair in PALETTE for colour in pair) and "prefers-color-scheme:dark" in text
