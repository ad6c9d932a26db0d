"""The page: one self-contained HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from instsel.report.drawing import CHART_STYLE
from instsel.report.html import Section, paragraph, text
from instsel.report.reading import Report
from instsel.report.row_cards import ends_section
from instsel.report.row_table import SCRIPT, table_section
from instsel.report.run_sections import (
    cost_section,
    selection_section,
    settings_section,
    statuses_section,
    subtitle,
    tiles,
)
from instsel.report.score_sections import length_note, lengths_section, pair_section, scores_section
from instsel.runs.run_files import PAGE_POLICY

STYLE = Path(__file__).with_name("page.css")


def build_page(
    report: Report, *, title: str | None = None, leading: Sequence[Section] = (), introduction: str = ""
) -> str:
    """The report as HTML; the same report gives the same bytes.

    title         of the page; by default what the runs are called
    leading       sections of one's own, before those of the report
    introduction  ready HTML under the title, before the figures that are seen first
    """
    found = [
        *leading,
        scores_section(report),
        pair_section(report),
        ends_section(report),
        selection_section(report),
        lengths_section(report),
        statuses_section(report),
        cost_section(report),
        table_section(report),
        settings_section(report),
    ]
    sections = [section for section in found if section is not None]
    named = title or f"instsel: {' and '.join(dict.fromkeys(run.name for run in report.runs))}"
    about = (introduction or paragraph(subtitle(report.runs), muted=True)) + length_note(report)
    links = "".join(f'<a href="#s{place}">{text(one.name or one.title)}</a>' for place, one in enumerate(sections, 1))
    body = "\n".join(one.html(f"s{place}") for place, one in enumerate(sections, 1))
    script = SCRIPT.read_text(encoding="utf-8")
    # The page's own script and no other may run, whatever the data hold; nothing may be loaded.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"{PAGE_POLICY}{digest}'"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text(named)}</title>
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE.read_text(encoding="utf-8")}{CHART_STYLE}</style></head>
<body><header><div><h1>{text(named)}</h1>{about}{tiles(report)}</div></header>
<nav aria-label="contents"><div>{links}</div></nav>
<main>
{body}
</main>
<footer>Written by instsel report; the file is whole in itself and loads nothing.</footer>
<script>{script}</script></body></html>
"""
