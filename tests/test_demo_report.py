"""The demo's page: escaped, self-contained, and showing what the findings say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from instsel.demo.corruption import TRUTH_CLASSES
from instsel.demo.findings import SCORE_NAMES, Findings
from instsel.demo.report import page, picture
from instsel.demo.run import candidate_line, print_findings
from instsel.demo.separation import areas_by_class
from instsel.methods.correlation import Correlation

HOSTILE = "</td><script>alert('x')</script><img src=http://evil.example/a.png onerror=y>\x1b[31m\u202e&amp;"


@pytest.fixture(scope="module")
def findings() -> Findings:
    rng = np.random.default_rng(0)
    truth = np.array([TRUTH_CLASSES[index % 6] for index in range(120)])
    score = rng.normal(size=120) + (truth == "clean")
    score[7] = np.nan
    rows = [
        {
            "instruction": f"do {index} {HOSTILE}",
            "input": HOSTILE,
            "output": f"{HOSTILE}\n",
            "family": "f",
            "truth": one,
        }
        for index, one in enumerate(truth.tolist())
    ]
    scores = {name: score if name == "wICI" else rng.normal(size=120) for name in SCORE_NAMES}
    cost = {"rows": 120.0, "seconds": 2.0, "tokens_forwarded": 1000.0, "tokens_unshared": 1700.0}
    return Findings(
        rows=rows,
        scores=scores,
        ifd=rng.random(120),
        areas=areas_by_class(scores, truth),
        correlation=Correlation(-0.25, -0.3, -0.2, 119, 0.95),
        selected=np.argsort(-score)[:24],
        own_style=0.95,
        num_groups=40,
        costs={"wici": cost},
    )


class Tags(HTMLParser):
    """Collects tags, and checks that they close in order."""

    VOID = ("meta", "br", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _loads_something(tags: Tags) -> bool:
    loading = any(tag in ("script", "link", "img", "iframe", "object", "image") for tag, _ in tags.seen)
    return loading or any({"src", "href", "onerror"} & set(attributes) for _, attributes in tags.seen)


def test_the_page_is_whole_and_loads_nothing(findings: Findings) -> None:
    text = page(findings, 12.3)
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert not _loads_something(tags)
    addresses = set(re.findall(r"https?://[^\s\"'<&]+", re.sub(r"&lt;.*?&gt;", "", text)))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    # Negative control: text put in unescaped would be found.
    control = Tags()
    control.VOID = (*Tags.VOID, "script")
    control.handle_endtag = lambda tag: None  # type: ignore[method-assign]
    control.feed(text.replace("</body>", HOSTILE + "</body>"))
    assert _loads_something(control)


def test_the_page_says_what_was_found(findings: Findings) -> None:
    text = page(findings, 12.3)
    assert (
        "12.3 s" in text
        and "Rank correlation -0.25 (95% interval -0.30 to -0.20)" in text
        and "1.70" in text
        and "95.0%" in text
    )
    for name, areas in findings.areas.items():
        assert f"<td>{name}</td>" in text and f"{areas['truncated']:.3f}" in text
    best = int(np.nanargmax(findings.scores["wICI"]))
    worst = int(np.nanargmin(findings.scores["wICI"]))
    assert f"do {best} " in text and f"do {worst} " in text
    assert "do 7 " not in text  # it has no score


def test_the_picture_is_xml_with_a_point_a_row(findings: Findings) -> None:
    root = ET.fromstring(picture(findings))
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(circles) == 119 + len(TRUTH_CLASSES)  # a row without a score has none; the legend has one a class


def test_the_terminal_gets_printable_text_only(findings: Findings) -> None:
    lines: list[str] = []
    print_findings(findings, 3.0, lines.append)
    text = "\n".join(lines)
    assert "\x1b" not in text and "\u202e" not in text
    assert "sharing factor 1.70" in text and "95.0%" in text
    assert len(candidate_line(findings.rows[0])) <= 88
