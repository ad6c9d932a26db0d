"""Write what the records say into pages, and a chart beside the first.

    cd benchmarks && python -m real_rows.page results/real_rows.jsonl ../docs/project/study.md \
        ../docs/what_selection_is_worth.md ../README.md ../docs/what_to_run.md

Between `<!-- real rows:begin -->` and `<!-- real rows:end -->` a page holds the tables, between the marks of
`real rows headline` what the further confirming seeds say in a few lines, and between those of `real rows agreement`
what `real_rows.agreement` wrote beside the records.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from real_rows.agreement import agreement_lines
from real_rows.headline import chart, headline
from real_rows.records import read_lines
from real_rows.tables import tables

AGREEMENT = "real_rows_agreement.json"
CHART = "real_rows.svg"


def write(records: Path, *pages: Path) -> None:
    """Put the parts between the pages' marks; ValueError where a page has none."""
    lines = read_lines(records)
    beside = records.with_name(AGREEMENT)
    parts = {
        "real rows": lambda: tables(lines),
        "real rows headline": lambda: headline(lines),
        "real rows agreement": lambda: agreement_lines(json.loads(beside.read_text(encoding="utf-8"))),
    }
    for page in pages:
        text, changed = page.read_text(encoding="utf-8"), False
        for name, made in parts.items():
            marked = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
            if marked.search(text):
                written, changed = made(), True
                text = marked.sub(lambda match, part=written: f"{match[1]}\n{part}\n\n{match[2]}", text)
        if not changed:
            raise ValueError(f"page: expected marks such as <!-- real rows:begin --> in {page}")
        page.write_text(text, encoding="utf-8")
    (pages[0].parent / CHART).write_text(chart(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
