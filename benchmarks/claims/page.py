"""Write the figures of a result into the documentation's pages, and draw their charts beside the first.

    cd benchmarks && python -m claims.page results/claims.json ../docs/what_selection_is_worth.md \
        ../docs/project/study.md ../README.md

What `python -m claims --pool FILE --output results/claims/own/NAME.json` found of other files is put in as well, and
what `python -m claims.again` found of studies done twice. Between `<!-- NAME:begin -->` and `<!-- NAME:end -->` a
page holds what this writes; all other text is the author's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from claims.tables import (
    Row,
    again_sentences,
    budgets_table,
    composition_table,
    correlations_table,
    grid_table,
    headline,
    named,
    own_tables,
    predictions_table,
    robustness_table,
    selectors_table,
    styles_table,
)

from instsel.report.charts import interval_bars, interval_lines

# Each part of the pages: where its figures stand in the result, and how they are written.
PARTS: dict[str, tuple[tuple[str, ...], Callable[[Any], str]]] = {
    "headline": ((), headline),
    "confirmation": (("confirmation",), selectors_table),
    "robustness": (("robustness",), robustness_table),
    "budgets": (("budgets",), budgets_table),
    "grid": (("grid",), grid_table),
    "composition": (("questions", "composition"), composition_table),
    "correlations": (("questions", "difficulty and influence"), correlations_table),
    "predictions": (("questions", "influence and what tuning gains"), predictions_table),
    "styles": (("questions", "styles"), styles_table),
    "real text": (("real text",), own_tables),
    "again": (("again",), again_sentences),
}


def written_part(name: str, found: Any) -> str:
    """A part of a page; where this result has no figures for it, that is said."""
    keys, write_part = PARTS[name]
    for key in keys:
        found = found.get(key, {})
    return write_part(found) if found else "*Not measured in this result; `make claims` goes on with it.*"


def charts(found: Mapping[str, Any]) -> dict[str, str]:
    """SVG texts by file name."""
    differences = {
        named(name): row["from_reference"] for name, row in found["confirmation"].items() if row["from_reference"]
    }
    predictions = {
        name: row for name, row in found["questions"]["influence and what tuning gains"].items() if name != "pools"
    }
    return {
        "confirmation": interval_bars(
            {name: _point(row) for name, row in sorted(differences.items(), key=lambda item: item[1]["mean"])},
            title="Held-out loss after tuning on a tenth, minus that of random rows",
            axis="nats a token; left of the line is better than random rows", reference=0.0, origin=None,
        ),
        "budgets": interval_lines(
            {
                named(name): [(100 * float(budget), *_point(row["loss"])) for budget, row in rows.items()]
                for name, rows in found["budgets"].items()
            },
            title="Held-out loss against budget", x_axis="rows selected, percent of the pool",
            y_axis="held-out loss, nats a token",
        ),
        "predictions": interval_bars(
            {name: _point(row) for name, row in sorted(predictions.items(), key=lambda item: item[1]["mean"])},
            title="Does a score predict what tuning on 30 rows gains?",
            axis="rank correlation of the subset's mean with held-out loss (-1: predicts it)", reference=0.0,
        ),
    }  # fmt: skip


def _point(row: Row) -> tuple[float, float, float]:
    return row["mean"], row["low"], row["high"]


def write(result: Path, *pages: Path) -> None:
    """Put every part into the pages that have its marks, and the charts beside the first."""
    found = json.loads(result.read_text(encoding="utf-8"))
    for part, folder in (("again", "again"), ("real text", "own")):
        paths = sorted((result.with_suffix("") / folder).glob("*.json"))
        found[part] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for name in PARTS:
            marked = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
            if marked.search(text):
                written = written_part(name, found)
                text = marked.sub(lambda match, written=written: f"{match[1]}\n{written}\n\n{match[2]}", text)
        page.write_text(text, encoding="utf-8")
    for name, svg in charts(found).items():
        (pages[0].parent / f"claims_{name}.svg").write_text(svg + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
