"""The demo's page: the report of its runs, with what only the demo knows, the truth; and a picture for the README."""

from __future__ import annotations

from math import nan
from pathlib import Path

from instsel.demo.corruption import TRUTH_CLASSES
from instsel.demo.findings import Findings
from instsel.demo.lessons import BUDGETS, PROCEDURES, RANDOM, folder_of
from instsel.report import Report, Section, build_page, read_report
from instsel.report.charts import histograms, interval_bars, interval_lines
from instsel.report.drawing import arranged
from instsel.report.html import figure, figures, paragraph, table, text


def read_demo_report(folder: Path) -> Report:
    """The report of the run folders that the demo's commands wrote under `folder`, coloured by the truth."""
    runs = [folder / name for name in ("wici", "ifd", folder_of(folder, "filter", BUDGETS[-1]).name)]
    return read_report(runs, colour_by="truth", order=TRUTH_CLASSES)


def _distribution(findings: Findings) -> str:
    truth, score = findings.truth, findings.scores["gain"]
    return histograms(
        {name: score[truth == name] for name in TRUTH_CLASSES},
        title="Gain by what was done to the candidate",
        axis="gain, nats a token (a line marks each median)",
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


def _lessons_chart(findings: Findings) -> str:
    lessons = findings.lessons
    return interval_lines(
        {
            name: [
                (0.0, lessons.untuned.loss, nan, nan),
                *((100 * budget, lessons.of(name, budget).loss, nan, nan) for budget in BUDGETS),
            ]
            for name in (*PROCEDURES.values(), RANDOM)
        },
        title="What the model learnt from the rows that were selected",
        x_axis="rows selected and tuned on, percent of the pool",
        y_axis="loss on held-out rows, nats a token",
    )


def picture(findings: Findings) -> str:
    """Draw the README's picture: what was learnt from each selection beside the distribution of gains."""
    title = "What instsel demo finds: loss after tuning on what was selected, gain by truth class, difficulty and gain"
    left = (_lessons_chart(findings),)
    right = (_distribution(findings),)
    return arranged([left, right], title)


def page(findings: Findings, report: Report, seconds: float) -> str:
    """Write the whole page as HTML: the sections of the demo, then those of every report."""
    introduction = paragraph(
        f"{len(findings.truth):,} candidates for instruction tuning were generated with a known truth: some are clean, "
        "others were damaged on purpose. The answers follow conventions (private words, labels, layouts) that no "
        "instruction reveals and one good demonstration does. A language model of 3.5 million parameters, which has "
        "seen neither these families of instructions nor these conventions, scored every candidate by how much "
        "likelier it makes the answers of related ones (the gain), and was then tuned on a tenth of them. No method "
        "was told the truth."
    ) + paragraph(f"Everything took {seconds:.1f} s on this machine.", muted=True)
    return build_page(
        report,
        title="instsel demo: which examples teach, and which harm",
        leading=(_lessons_section(findings), _truth_section(findings), _style_section(findings)),
        introduction=introduction,
    )


def _lessons_section(findings: Findings) -> Section:
    """What tuning on each selection taught."""
    lessons = findings.lessons
    rows = [["the model untuned", "", "", f"{lessons.untuned.loss:.3f}", f"{lessons.untuned.exact:.0%}"]]
    rows += [
        [text(one.name), f"{one.rows:,} ({one.budget:.0%})", f"{one.clean:.0%}", f"{one.loss:.3f}", f"{one.exact:.0%}"]
        for one in sorted(lessons.tuned, key=lambda one: (one.budget, one.loss))
    ]
    told = (
        "Each time the same model was tuned from the same start, for as many steps, on another selection, and then "
        "met clean rows that no pool has. The gain of a row is the mean rise of its probes' log-probability. Of each "
        "cluster of similar rows the half with the lower gain is left out, and rows are drawn from the rest in "
        "proportion to the cluster's size (instsel select --procedure filter): the score takes out what is bad, and "
        "chance keeps what is left as varied as it was. wICI as published takes the highest scores (--procedure "
        "paper), and weighs each influence by the distance of its probe, which favours rows unlike all others. One "
        "pool is one draw: the study in the documentation has intervals over many."
    )
    head = ["tuned on", "rows", "of these clean", "held-out loss", "exact answers"]
    chart = figure(_lessons_chart(findings), "Lower is better: mean negative log-likelihood of held-out answers.")
    figures_table = table(head, rows, numbers=range(1, 5))
    beside = f'<div class="beside"><h3>Figures</h3>{figures_table}{paragraph(told, muted=True)}</div>'
    return Section("What was selected teaches", figures(chart, beside), "What it teaches")


def _truth_section(findings: Findings) -> Section:
    """How well each score tells clean candidates from others."""
    classes = list(next(iter(findings.areas.values())))
    rows = [[text(name), *(f"{areas[one]:.3f}" for one in classes)] for name, areas in findings.areas.items()]
    chart = figure(
        _areas_chart(findings),
        "How often a clean candidate ranks above a corrupted one: 1 is always, 0.5 is what chance gives.",
    )
    duplicates = (
        "A duplicate's text is as good as its original's; a limit on the cosine (--max-similarity) leaves it out."
    )
    beside = (
        f'<div class="beside"><h3>Against each class</h3>{paragraph(duplicates, muted=True)}'
        f"{table(['area under the ROC curve', *classes], rows, numbers=range(1, 1 + len(classes)))}</div>"
    )
    return Section("Scores against the truth", figures(chart, beside), "The truth")


def _style_section(findings: Findings) -> Section:
    """What GRAPE picked."""
    cost = findings.costs["grape"]
    told = (
        f"Of {findings.num_groups:,} questions, each with the same right answer in six styles, GRAPE picked the style "
        f"of the model's own training text in {findings.own_style:.1%}, in {cost['seconds']:.1f} s with a sharing "
        f"factor of {cost['tokens_unshared'] / max(1.0, cost['tokens_forwarded']):.2f}."
    )
    return Section("GRAPE: the answer in the model's own style", paragraph(told), "GRAPE")
