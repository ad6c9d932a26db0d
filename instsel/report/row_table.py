"""The table of all rows: data for the page's own script, which sorts, searches and filters it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from instsel.report.html import Section, paragraph, text
from instsel.report.reading import Report
from instsel.report.text import shortened, visible

CELL_CHARACTERS = 280
MAX_CHOICES = 40  # of a filter
SCRIPT = Path(__file__).with_name("table.js")


def table_section(report: Report) -> Section:
    """The table with its controls and its data."""
    columns = _columns(report)
    values = [_listed(report, kind, source) for _, kind, source in columns]
    data = {
        "columns": [{"label": label, "kind": kind} for label, kind, _ in columns],
        "rows": list(zip(*values, strict=True)),
    }
    sort = next(place for place, (_, kind, _) in enumerate(columns) if kind == "number")
    head = "".join(_heading(label, kind) for label, kind, _ in columns)
    body = f"""{paragraph(_told(report), muted=True)}
<noscript>{paragraph("Sorting and searching need JavaScript; all figures above do not.")}</noscript>
<div id="rows" hidden data-sort="{sort}">
<div class="controls"><label>search in texts, by words or #number<input type="search" autocomplete="off"></label>
{_filters(columns, values)}<label class="narrow">sort by<select class="order">{_orders(columns)}</select></label></div>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody></tbody></table></div>
<div class="pages"><button type="button" class="back">back</button><button type="button" class="on">next</button>
<span role="status" class="muted"></span></div></div>
<script type="application/json" id="rows-data">{_embedded(data)}</script>"""
    return Section("All rows" if len(report.listed) == report.count else "Rows", body, "All rows")


def _heading(label: str, kind: str) -> str:
    right = ' class="number"' if kind == "number" else ""
    return f'<th{right} scope="col"><button type="button">{text(label)}</button></th>'


def _told(report: Report) -> str:
    listed, count = len(report.listed), report.count
    which = f"All {count:,} rows."
    if listed < count:
        which = (
            f"{listed:,} of {count:,} rows: those with the highest and the lowest scores, and others drawn at random "
            "with a fixed seed."
        )
    return (
        f"{which} A click on a column's name sorts by it, a click on a row unfolds its texts, of which this table "
        f"holds the first {CELL_CHARACTERS} characters."
    )


Column = tuple[str, str, np.ndarray | str | None]  # label, kind and source


def _columns(report: Report) -> list[Column]:
    """Label, kind and source of each column."""
    columns: list[Column] = [("row", "row", None)]
    columns += [(measure.axis, "number", measure.values) for measure in report.measures]
    if report.coloured_by is not None:
        columns.append((report.coloured_by, "label", _class_of_each(report)))
    if report.selection is not None and report.whole and report.coloured_by != "selection":
        chosen = np.full(report.count, "no", object)
        chosen[report.selection.rows] = "yes"
        columns.append(("selected", "label", chosen))
    if report.selection is not None and report.selection.cluster:
        cluster = np.full(report.count, "", object)
        places = report.selection.rows if report.whole else np.arange(report.count)
        cluster[places] = report.selection.cluster
        columns.append(("cluster", "label", cluster))
    numbers, names = report.status
    if len(names) > 1 or names != ["ok"]:
        columns.append(("status", "label", np.array(names, object)[numbers]))
    return [*columns, ("prompt", "text", "prompt"), ("answer", "text", "answer")]


def _class_of_each(report: Report) -> np.ndarray:
    found = np.full(report.count, "", object)
    for name, rows in report.classes.items():
        found[rows] = name
    return found


def _listed(report: Report, kind: str, source: Any) -> list[int] | list[str] | list[float | int | None]:
    rows = report.listed.tolist()
    if kind == "row":
        return rows
    if kind == "text":
        return [visible(shortened(getattr(report.texts[row], source), CELL_CHARACTERS)) for row in rows]
    if kind == "label":
        return [visible(shortened(str(source[row]), CELL_CHARACTERS)) for row in rows]
    return [_plain(float(source[row])) for row in rows]


def _plain(value: float) -> float | int | None:
    """A number as JSON holds it, to six digits."""
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else float(f"{value:.6g}")


def _filters(columns: list[Column], values: Sequence[Sequence[Any]]) -> str:
    parts = []
    for place, (label, kind, _) in enumerate(columns):
        choices = sorted(set(values[place])) if kind == "label" else []
        if 1 < len(choices) <= MAX_CHOICES:
            options = "".join(f'<option value="{text(one)}">{text(one) or "none"}</option>' for one in choices if one)
            parts.append(
                f'<label>{text(label)}<select class="filter" data-column="{place}"><option value="">all</option>'
                f"{options}</select></label>\n"
            )
    return "".join(parts)


def _orders(columns: list[Column]) -> str:
    return "".join(
        f'<option value="{place} {way}">{text(label)}, {word}</option>'
        for place, (label, kind, _) in enumerate(columns)
        for way, word in ((("down", "highest first"), ("up", "lowest first")) if kind == "number" else
                          (("up", "first to last"), ("down", "last to first")))
    )  # fmt: skip


def _embedded(data: object) -> str:
    """JSON that no HTML parser takes for anything else."""
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return written.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
