"""Sections of figures over all rows: distributions, one score against another, lengths."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from instsel.methods.correlation import spearman_correlation
from instsel.report.candidate_sources import CandidateSources
from instsel.report.charts import histograms, scatter
from instsel.report.drawing import robust_range, slot
from instsel.report.html import Section, dot, figure, figures, number, paragraph, share, table, text
from instsel.report.measures import Measure
from instsel.report.reading import Report
from instsel.selection.length_strata import said_of_length

MAX_POINTS = 3000  # in a scatter plot
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_RESAMPLES, _RESAMPLES_OF_MANY, _MANY = 1000, 100, 20_000
_MAX_SOURCES = 30
_MAX_COMPARED = 8  # measures in the table of correlations


def scores_section(report: Report) -> Section:
    """How scores are distributed, as pictures and as quantiles."""
    others = [one for one in report.measures[1:] if one.name not in ("num_tokens", "sum_logprob")][:3]
    charts = [_distribution(report, one) for one in (report.score, *others)]
    parts = [figures(*charts), "<h3>Quantiles</h3>", _quantiles(report.measures)]
    if len(_classes(report)) > 1:
        parts.append(f"<h3>{text(report.score.label)} by {text(report.coloured_by)}</h3>")
        parts.append(_quantiles_by_class(report))
    if report.sources is not None:
        parts += [f"<h3>Best answers by {text(report.sources.key)}</h3>", _wins(report.sources)]
    return Section("Distribution of scores", "\n".join(parts), "Scores")


def _wins(sources: CandidateSources) -> str:
    about = (
        "By chance: if the best were one of a group's answers at random. A source far above it may have answers that "
    )
    about += "are likely because they are simple, or repeat themselves: look at some."
    rows = [
        [text(name), f"{one.groups:,}", f"{one.wins:,}", share(one.wins, one.groups), share(one.by_chance, one.groups)]
        for name, one in sorted(sources.counts.items(), key=lambda item: -item[1].wins)[:_MAX_SOURCES]
    ]
    head = [sources.key, "groups with an answer of it", "best", "share", "by chance"]
    return table(head, rows, numbers=range(1, 5)) + paragraph(about, muted=True)


def _distribution(report: Report, measure: Measure) -> str:
    classes = {name: measure.values[rows] for name, rows in _classes(report).items()}
    by = f" by {report.coloured_by}" if len(classes) > 1 else ""
    chart = histograms(classes, title=f"{measure.label}{by}", axis=measure.axis)
    finite = measure.values[np.isfinite(measure.values)]
    low, high = robust_range(measure.values)
    beyond = int(((finite < low) | (finite > high)).sum())
    scaled = " Each histogram is scaled to its own highest bar." if len(classes) > 1 else ""
    edges = f" {beyond:,} beyond the axis are counted in its outermost bars." if beyond else ""
    return figure(chart, f"{measure.about} The line marks the median.{scaled}{edges}".strip())


def _quantiles(measures: tuple[Measure, ...]) -> str:
    rows = [[text(one.axis), *_quantile_cells(one.values)] for one in measures]
    return table(["", "rows", *_quantile_names()], rows, numbers=range(1, 2 + len(_QUANTILES)))


def _quantiles_by_class(report: Report) -> str:
    rows = [
        [dot(slot(place), name), *_quantile_cells(report.score.values[members])]
        for place, (name, members) in enumerate(report.classes.items())
    ]
    return table([str(report.coloured_by), "rows", *_quantile_names()], rows, numbers=range(1, 2 + len(_QUANTILES)))


def _quantile_names() -> list[str]:
    return ["lowest", *(f"{one} %" if one != 50 else "median" for one in _QUANTILES[1:-1]), "highest"]


def _quantile_cells(values: np.ndarray) -> list[str]:
    finite = values[np.isfinite(values)]
    found = np.percentile(finite, _QUANTILES) if len(finite) else np.full(len(_QUANTILES), np.nan)
    return [f"{len(finite):,}", *(number(float(one)) for one in found)]


def pair_section(report: Report) -> Section | None:
    """Difficulty against influence, or what else the runs have to set against each other."""
    if report.pair is None and len(report.measures) < 3:
        return None
    parts, title = [], "Scores against each other"
    if report.pair is not None:
        across, up = report.pair
        is_influence = across.name in ("ifd", "perplexity") and up.name == "score"
        title = "Difficulty against influence" if is_influence else f"{across.label} against {up.label}"
        parts.append(_scatter(report, across, up, title))
    beside = [] if report.pair is None else ["<h3>Rank correlation</h3>", paragraph(correlation_text(*report.pair))]
    if len(report.measures) > 2:
        about = "Spearman's rho between every two scores: 1 ranks alike, -1 the other way round."
        beside += ["<h3>Every two scores</h3>", paragraph(about, muted=True)]
        beside.append(_correlations(report.measures[:_MAX_COMPARED]))
    parts.append(f'<div class="beside">{"".join(beside)}</div>')
    return Section(title, figures(*parts), "Against each other")


def correlation_text(x: Measure, y: Measure) -> str:
    """The rank correlation of two measures with its bootstrap interval, in a sentence."""
    many = len(x.values) > _MANY
    found = spearman_correlation(x.values, y.values, resamples=_RESAMPLES_OF_MANY if many else _RESAMPLES)
    if np.isnan(found.rho):
        return f"Too few rows have both {x.label} and {y.label} for a rank correlation."
    return (
        f"Rank correlation {found.rho:+.2f} ({found.confidence:.0%} interval {found.low:+.2f} to {found.high:+.2f}) "
        f"over {found.count:,} rows."
    )


def _scatter(report: Report, x: Measure, y: Measure, title: str) -> str:
    drawn = drawn_rows(report)
    chart = scatter(
        x.values[drawn], y.values[drawn], _classes(report, drawn), title=title, x_axis=x.axis, y_axis=y.axis
    )
    which = f"{len(drawn):,} of {report.count:,} rows" if len(drawn) < report.count else "Each point is a row"
    return figure(chart, f"{which}; points beyond the axes are drawn at their ends. {x.about} {y.about}".strip())


def drawn_rows(report: Report) -> np.ndarray:
    """The rows of a scatter plot: those of the table, thinned to as many as can be told apart."""
    listed = report.listed
    return listed[np.linspace(0, len(listed) - 1, MAX_POINTS).astype(np.int64)] if len(listed) > MAX_POINTS else listed


def _classes(report: Report, among: np.ndarray | None = None) -> Mapping[str, np.ndarray]:
    """The rows of each class; or their places among some rows."""
    if among is None:
        return report.classes
    return {name: np.flatnonzero(np.isin(among, rows)) for name, rows in report.classes.items()}


def _correlations(measures: tuple[Measure, ...]) -> str:
    cells = [[""] * len(measures) for _ in measures]
    for i, one in enumerate(measures):
        for j, other in enumerate(measures[:i]):
            rho = spearman_correlation(one.values, other.values, resamples=1).rho
            cells[i][j] = cells[j][i] = "none" if np.isnan(rho) else f"{rho:+.2f}"
    rows = [[text(one.label), *line] for one, line in zip(measures, cells, strict=True)]
    return table(["", *(one.label for one in measures)], rows, numbers=range(1, 1 + len(measures)))


def lengths_section(report: Report) -> Section:
    """How long answers are, and whether the score follows from that."""
    length = report.length or _characters(report)
    drawn = drawn_rows(report)
    title = f"{report.score.label} against length"
    parts = figures(
        _distribution(report, length),
        figure(
            scatter(
                length.values[drawn], report.score.values[drawn], _classes(report, drawn), title=title,
                x_axis=length.axis, y_axis=report.score.axis,
            ),
            "A score that follows from length alone would lie on a curve.",
        ),
    )  # fmt: skip
    return Section("Lengths", parts + paragraph(correlation_text(length, report.score)), "Lengths")


def length_note(report: Report) -> str:
    """A sentence for the top of the page where the score follows the answer's length; empty where it does not."""
    if report.length is None or report.length is report.score:
        return ""
    rho = spearman_correlation(report.length.values, report.score.values, resamples=1).rho
    said = said_of_length(report.score.label, rho)
    if not said:
        return ""
    way = "longer answers rank higher" if rho > 0 else "shorter answers rank higher"
    about = "instsel select --length-strata 10 ranks rows among those of like length."
    return paragraph(f"{said}: {way}. {about}")


def _characters(report: Report) -> Measure:
    """Lengths of the rows that are listed; the runs have kept none of all."""
    values = np.full(report.count, np.nan)
    values[report.listed] = [len(report.texts[row].answer) for row in report.listed.tolist()]
    about = "Characters of the answer; the run has kept no count of tokens."
    return Measure("characters", "length of the answer", "characters", about, values)
