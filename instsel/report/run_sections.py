"""Sections on the runs themselves: rows by status, what was selected, cost, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from instsel.report.drawing import slot
from instsel.report.html import Section, bar, details, dot, number, paragraph, seconds, share, table, text, tile
from instsel.report.measures import STATUSES
from instsel.report.reading import Report
from instsel.report.row_cards import failed_cards
from instsel.report.scored_runs import Run

_SHOWN_CLUSTERS = 30


def tiles(report: Report) -> str:
    """The figures that are seen first."""
    scored = len(report.ranked)
    found = [
        tile(f"{report.count:,}", "rows"),
        tile(f"{scored:,}", f"rows with a score, {share(scored, report.count)}"),
    ]
    if scored:
        middle = float(np.median(report.score.values[report.ranked]))
        found.append(tile(number(middle), f"median {report.score.axis}"))
    if report.selection is not None:
        chosen = len(report.selection.rows)
        found.append(tile(f"{chosen:,}", f"rows selected, {share(chosen, _pool_size(report))}"))
    forwarded = sum(_stats(run, "tokens_forwarded") for run in report.runs)
    if forwarded:
        unshared = sum(_stats(run, "tokens_unshared") for run in report.runs)
        found.append(tile(f"{unshared / forwarded:.2f}", "sharing factor"))
        found.append(tile(seconds(sum(_stats(run, "wall_seconds") for run in report.runs)), "time of scoring"))
    return f'<div class="tiles">{"".join(found)}</div>'


def _pool_size(report: Report) -> int:
    assert report.selection is not None
    return report.selection.run.rows


def _stats(run: Run, name: str) -> float:
    return float(run.manifest.get("stats", {}).get(name, 0.0))


def statuses_section(report: Report) -> Section:
    """Rows by status in each run, why, and the first rows of each."""
    names = list(dict.fromkeys(name for _, counts in report.statuses for name in counts))
    rows = []
    for name in names:
        cells = [f"{counts.get(name, 0):,}" for _, counts in report.statuses]
        shares = share(report.statuses[0][1].get(name, 0), report.count)
        rows.append([f"<code>{text(name)}</code>", *cells, shares, text(STATUSES.get(name, "as the method says"))])
    runs = [f"rows ({name})" if len(report.statuses) > 1 else "rows" for name, _ in report.statuses]
    parts = [
        paragraph("A row that cannot be scored has a status that says why, and no number.", muted=True),
        table(["status", *runs, "share", "what it means"], rows, numbers=range(1, 2 + len(runs))),
    ]
    parts += [
        details(f"the first rows that are {name}", failed_cards(report, name)) for name in report.failed
        if report.failed[name]
    ]  # fmt: skip
    return Section("Statuses", "\n".join(parts))


def selection_section(report: Report) -> Section | None:
    """What was selected, by class and by cluster."""
    selection = report.selection
    if selection is None:
        return None
    counts = selection.run.manifest.get("counts", {})
    rule = selection.rule(report.score.label if report.score.name == selection.by else selection.by)
    told = [f"{len(selection.rows):,} of {_pool_size(report):,} rows: {rule}."]
    if counts.get("tokens"):
        told.append(f"They hold {counts['tokens']:,} tokens.")
    left_out = [
        f"{counts[name]:,} {words}"
        for name, words in (("not_selectable", "that could not be selected"), ("above_max_score", "above the limit"))
        if counts.get(name)
    ]
    if left_out:
        told.append(f"Left out beforehand: {', '.join(left_out)}.")
    if not report.whole:
        told.append("The pool is not at hand: give its run folder as well to see the selected rows beside the others.")
    parts = [paragraph(" ".join(told))]
    if report.whole and report.coloured_by not in (None, "selection"):
        parts += [f"<h3>By {text(report.coloured_by)}</h3>", _by_class(report)]
    if selection.clusters:
        shown = len(selection.clusters) if len(selection.clusters) <= _SHOWN_CLUSTERS else _SHOWN_CLUSTERS
        which = f"the {shown} largest of {selection.num_clusters:,} clusters" if shown < selection.num_clusters else \
            f"all {shown} clusters"  # fmt: skip
        parts += ["<h3>By cluster</h3>", paragraph(f"Selected rows of {which}, the largest first.", muted=True)]
        parts.append(_by_cluster(selection.clusters))
    return Section("What was selected", "\n".join(parts), "Selection")


def _by_class(report: Report) -> str:
    assert report.selection is not None
    chosen = report.selection.rows
    rows = []
    for place, (name, members) in enumerate(report.classes.items()):
        taken = int(np.isin(members, chosen).sum())
        rows.append([dot(slot(place), name), f"{len(members):,}", share(len(members), report.count), f"{taken:,}",
                     share(taken, len(chosen)), share(taken, len(members))])  # fmt: skip
    head = [str(report.coloured_by), "in the pool", "share of the pool", "selected", "share of the selected", "taken"]
    return table(head, rows, numbers=range(1, 6))


def _by_cluster(clusters: dict[str, tuple[int, int]]) -> str:
    shown = list(clusters.items())[:_SHOWN_CLUSTERS]
    largest = max((taken / size for _, (size, taken) in shown if size), default=0.0)
    rows = [
        [text(name), f"{size:,}", f"{taken:,}", share(taken, size), bar(taken / size if size else 0, largest)]
        for name, (size, taken) in shown
    ]
    return table(["cluster", "rows", "selected", "share", ""], rows, numbers=range(1, 4)).replace(
        '<td><span class="bar', '<td class="bars"><span class="bar'
    )


def cost_section(report: Report) -> Section | None:
    """Tokens, sharing and time of each run."""
    rows = []
    for run in report.runs:
        forwarded, unshared = _stats(run, "tokens_forwarded"), _stats(run, "tokens_unshared")
        time = _stats(run, "wall_seconds")
        if forwarded:
            rows.append([text(run.name), f"{run.rows:,}", seconds(time), f"{forwarded:,.0f}", f"{unshared:,.0f}",
                         f"{unshared / forwarded:.2f}", number(forwarded / time, 3) if time else "none"])  # fmt: skip
    if not rows:
        return None
    head = ["run", "rows", "time", "tokens forwarded", "tokens unshared", "sharing factor", "tokens a second"]
    about = "A sharing factor of 2 means that one sequence at a time would have forwarded twice as many tokens."
    return Section("Cost and sharing", table(head, rows, numbers=range(1, 7)) + paragraph(about, muted=True), "Cost")


def settings_section(report: Report) -> Section:
    """What each run was made with, so that it can be made again."""
    runs = [*report.runs, *([report.selection.run] if report.selection is not None and report.whole else [])]
    return Section("Settings", "\n".join(details(f"{run.name}: {run.method}", _settings(run)) for run in runs))


def _settings(run: Run) -> str:
    manifest = run.manifest
    found: list[tuple[str, object]] = [
        (name, manifest.get(name)) for name in ("input", "model", "model_revision", "created", *manifest["compared"])
    ]
    found += [(f"parameters: {key}", value) for key, value in manifest.get("parameters", {}).items()]
    found += [(f"environment: {key}", value) for key, value in manifest.get("environment", {}).items()]
    found += [(name, said["text"]) for name, said in manifest.get("findings", {}).items() if _has_text(said)]
    rows = [[text(name), _value(value)] for name, value in found if name not in ("parameters", "format")]
    return table(["setting", "value"], [row for row in rows if row[1]])


def _has_text(said: object) -> bool:
    return isinstance(said, dict) and "text" in said


def _value(value: object) -> str:
    if value is None:
        return ""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text(written)


def subtitle(runs: Sequence[Run]) -> str:
    """What was scored by what, under which model."""
    pool = runs[0].manifest
    methods = ", ".join(dict.fromkeys(run.method for run in runs))
    models = ", ".join(dict.fromkeys(str(run.manifest["model"]) for run in runs if run.manifest.get("model")))
    return f"{methods} over {pool.get('input')}" + (f", under {models}" if models else "")
