"""The demo's page: one self-contained HTML file without scripts, and the picture of it for the README."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from math import nan

import numpy as np

from instsel.demo.corruption import TRUTH_CLASSES
from instsel.demo.findings import Findings
from instsel.report.charts import histograms, interval_bars, scatter
from instsel.report.drawing import CHART_STYLE, arranged, slot

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1180px; margin: 2em auto;
       padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; margin: 0.6em 0 } th, td { padding: 3px 10px; border-bottom: 1px solid #ddd }
th { text-align: left } td.number { text-align: right; font-variant-numeric: tabular-nums }
td.text { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap }
.charts { display: flex; flex-wrap: wrap; gap: 16px } svg { max-width: 100%; height: auto }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; background: currentColor;
       margin-right: 6px }
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Set ready HTML cells as a table; a cell that begins with a digit or a sign is a number."""

    def cell(text: str) -> str:
        kind = ' class="number"' if re.match(r"[-+\d]", text) else ""
        return text if text.startswith("<td") else f"<td{kind}>{text}</td>"

    body = "".join("<tr>" + "".join(cell(text) for text in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _truth_cell(truth: str) -> str:
    return f'<span class="dot {slot(TRUTH_CLASSES.index(truth))}"></span>{escape(truth)}'


def _text_cell(text: str) -> str:
    return f'<td class="text">{escape(text)}</td>'


def _candidates(findings: Findings, rows: Sequence[int]) -> str:
    score = findings.scores["wICI"]
    return _table(
        ("wICI", "truth", "instruction and input", "answer"),
        [
            (
                f"{score[row]:.4f}",
                _truth_cell(findings.rows[row]["truth"]),
                _text_cell("\n".join(filter(None, (findings.rows[row]["instruction"], findings.rows[row]["input"])))),
                _text_cell(findings.rows[row]["output"]),
            )
            for row in rows
        ],
    )


def _distribution(findings: Findings) -> str:
    truth, score = findings.truth, findings.scores["wICI"]
    return histograms(
        {name: score[truth == name] for name in TRUTH_CLASSES},
        title="wICI by what was done to the candidate",
        axis="wICI (a line marks each median)",
    )


def _difficulty_against_influence(findings: Findings) -> str:
    return scatter(
        findings.ifd,
        findings.scores["wICI"],
        {name: np.flatnonzero(findings.truth == name) for name in TRUTH_CLASSES},
        title=f"Difficulty against influence: rank correlation {findings.correlation.rho:+.2f}",
        x_axis="IFD, difficulty of the candidate itself",
        y_axis="wICI, its influence on others",
    )


def correlation_text(findings: Findings) -> str:
    """The rank correlation with its interval."""
    found = findings.correlation
    return f"{found.rho:+.2f} ({found.confidence:.0%} interval {found.low:+.2f} to {found.high:+.2f})"


def _areas_chart(findings: Findings) -> str:
    return interval_bars(
        {name: (areas["all corrupted"], nan, nan) for name, areas in findings.areas.items()},
        title="Clean against corrupted candidates",
        axis="area under the ROC curve (dashed: chance)",
        reference=0.5,
    )


def picture(findings: Findings) -> str:
    """Draw the README's picture: the distribution and the comparison of methods beside the scatter plot, one SVG."""
    title = "What instsel demo finds: wICI by truth class, methods side by side, difficulty against influence"
    return arranged(
        [(_distribution(findings), _areas_chart(findings)), (_difficulty_against_influence(findings),)], title
    )


def page(findings: Findings, seconds: float) -> str:
    """Write the whole page as HTML; every text of the data is escaped."""
    truth = findings.truth
    pool, chosen = Counter(truth.tolist()), Counter(truth[findings.selected].tolist())
    classes = list(next(iter(findings.areas.values())))
    order = findings.order
    parts = [
        "<h1>instsel demo: which examples teach, and which harm</h1>",
        f"<p>{len(truth):,} candidates for instruction tuning were generated with a known truth: some are clean, "
        "others were damaged on purpose. The answers follow conventions (private words, labels, layouts) that no "
        "instruction reveals and one good demonstration does. A language model of 3.5 million parameters, which has "
        "seen neither these families of instructions nor these conventions, scored every candidate by how much it "
        "helps with others (wICI). No method was told the truth.</p>",
        f"<p>Everything took {seconds:.1f} s on this machine.</p>",
        f'<h2>Scores against the truth</h2><div class="charts">{_distribution(findings)}{_areas_chart(findings)}</div>',
        "<p>Area under the ROC curve: how often a clean candidate ranks above one of the class, 0.5 being chance. "
        "A duplicate's text is as good as its original's; the selection's similarity limit is what removes copies.</p>",
        _table(
            ("score", *classes),
            [(escape(name), *(f"{areas[one]:.3f}" for one in classes)) for name, areas in findings.areas.items()],
        ),
        f'<h2>Difficulty against influence</h2><div class="charts">{_difficulty_against_influence(findings)}</div>',
        f"<p>Rank correlation {correlation_text(findings)}.</p>",
        "<h2>The ten highest</h2>",
        _candidates(findings, order[:10].tolist()),
        "<h2>The ten lowest</h2>",
        _candidates(findings, order[::-1][:10].tolist()),
        f"<h2>The selected subset: {len(findings.selected):,} candidates</h2>",
        _table(
            ("truth", "in the pool", "share", "selected", "share"),
            [
                (
                    _truth_cell(name),
                    f"{pool[name]:,}",
                    f"{pool[name] / len(truth):.1%}",
                    f"{chosen[name]:,}",
                    f"{chosen[name] / max(1, len(findings.selected)):.1%}",
                )
                for name in TRUTH_CLASSES
            ],
        ),
        "<details><summary>The first 50 of them</summary>",
        _candidates(findings, findings.selected[:50].tolist()),
        "</details>",
        "<h2>GRAPE: the answer in the model's own style</h2>",
        f"<p>Of {findings.num_groups:,} questions, each with the same right answer in six styles, GRAPE picked the "
        f"style of the model's own training text in {findings.own_style:.1%}.</p>",
        "<h2>Cost</h2>",
        _cost_table(findings),
        "<p>A sharing factor of 2 means that one sequence at a time would forward twice as many tokens.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>instsel demo</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}{CHART_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _cost_table(findings: Findings) -> str:
    return _table(
        ("command", "rows", "seconds", "tokens forwarded", "unshared", "sharing factor", "tokens a second"),
        [
            (
                escape(name),
                f"{cost['rows']:,.0f}",
                f"{cost['seconds']:.1f}",
                f"{cost['tokens_forwarded']:,.0f}",
                f"{cost['tokens_unshared']:,.0f}",
                f"{cost['tokens_unshared'] / max(1.0, cost['tokens_forwarded']):.2f}",
                f"{cost['tokens_forwarded'] / max(1e-9, cost['seconds']):,.0f}",
            )
            for name, cost in findings.costs.items()
        ],
    )
