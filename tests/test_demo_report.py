"""The demo's page: escaped, self-contained, and showing what the findings say."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report_pages import Tags, loading
from run_folders import write_run, write_selection

from instsel.demo.corruption import TRUTH_CLASSES
from instsel.demo.findings import SCORE_NAMES, Findings
from instsel.demo.lessons import BUDGETS, PROCEDURES, RANDOM, Lesson, Lessons, folder_of
from instsel.demo.report import page, picture, read_demo_report
from instsel.demo.run import candidate_line, print_findings
from instsel.demo.separation import areas_by_class
from instsel.demo.tuning import HeldOut
from instsel.methods.correlation import Correlation
from instsel.report import Report

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
    scores = {name: score if name == "gain" else rng.normal(size=120) for name in SCORE_NAMES}
    lessons = [
        Lesson(name, budget, round(120 * budget), 0.75, 0.5 + place / 8, 0.25)
        for budget in BUDGETS for place, name in enumerate((*PROCEDURES.values(), RANDOM))
    ]  # fmt: skip
    cost = {"rows": 120.0, "seconds": 2.0, "tokens_forwarded": 1000.0, "tokens_unshared": 1700.0}
    return Findings(
        rows=rows,
        scores=scores,
        ifd=rng.random(120),
        areas=areas_by_class(scores, truth),
        correlation=Correlation(-0.25, -0.3, -0.2, 119, 0.95),
        selected=np.argsort(-score)[:24],
        lessons=Lessons(HeldOut(2.25, 0.0), tuple(lessons)),
        own_style=0.95,
        num_groups=40,
        costs={"wici": cost, "grape": cost},
    )


@pytest.fixture(scope="module")
def report(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the demo's commands would have left of these findings."""
    folder = tmp_path_factory.mktemp("demo")
    pool = {name: [row[name] for row in findings.rows] for name in findings.rows[0]}
    score = {"score": findings.scores["gain"], "status": np.where(np.isnan(findings.scores["gain"]), "too_long", "ok")}
    wici = write_run(folder / "wici", "wici", pool, score)
    write_run(folder / "ifd", "ifd", pool, {"ifd": findings.ifd})
    write_selection(folder_of(folder, "filter", BUDGETS[-1]), wici, findings.selected.tolist())
    return read_demo_report(folder)


def test_the_page_is_the_report_with_the_truth_in_front(findings: Findings, report: Report) -> None:
    text = page(findings, report, 12.3)
    tags = Tags(text)
    assert loading(tags) == []
    assert (
        text.index("What was selected teaches")
        < text.index("Scores against the truth")
        < text.index("own style")
        < text.index("Distribution of scores")
    )
    assert [name for name in report.classes] == list(TRUTH_CLASSES)
    assert "12.3 s" in text and "Rank correlation" in text and "95.0%" in text and "24 of 120 rows" in text
    for name, areas in findings.areas.items():
        assert f"<td>{name}</td>" in text and f"{areas['truncated']:.3f}" in text
    for one in findings.lessons.tuned:
        assert f"<td>{one.name}</td>" in text and f"{one.loss:.3f}" in text
    best = int(np.nanargmax(findings.scores["gain"]))
    assert report.highest[0] == best and report.lowest[0] == int(np.nanargmin(findings.scores["gain"]))
    assert text == page(findings, report, 12.3)


def test_the_picture_is_xml_with_a_point_for_each_tuning(findings: Findings) -> None:
    root = ET.fromstring(picture(findings))
    circles = root.findall(".//{http://www.w3.org/2000/svg}circle")
    ways = len(PROCEDURES) + 1
    assert len(circles) == ways * (1 + len(BUDGETS)) + ways  # the untuned model in each; the legend has one a way


def test_the_terminal_gets_printable_text_only(findings: Findings) -> None:
    lines: list[str] = []
    print_findings(findings, 3.0, lines.append)
    text = "\n".join(lines)
    assert "\x1b" not in text and "\u202e" not in text
    assert "held-out loss after tuning" in text and "2.250 (0%)" in text and "0.750 (25%) of 10%" in text
    assert "sharing factor 1.70" in text and "95.0%" in text
    assert len(candidate_line(findings.rows[0])) <= 88
