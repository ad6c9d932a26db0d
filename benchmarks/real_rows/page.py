"""Write what the records say into pages, and a chart beside the first.

    cd benchmarks && python -m real_rows.page results/real_rows.jsonl ../docs/project/study.md \
        ../docs/what_selection_is_worth.md ../README.md

Between `<!-- real rows:begin -->` and `<!-- real rows:end -->` a page holds the tables, between the marks of
`real rows headline` what the confirming seeds say in a few lines.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from claims.trials import read_lines
from real_rows.headline import chart, headline
from real_rows.tables import tables

PARTS = {"real rows": tables, "real rows headline": headline}
CHART = "real_rows.svg"


def write(records: Path, *pages: Path) -> None:
    """Put the parts between the pages' marks; ValueError where a page has none."""
    lines = read_lines(records)
    for page in pages:
        text, changed = page.read_text(encoding="utf-8"), False
        for name, made in PARTS.items():
            marked = re.compile(f"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
            if marked.search(text):
                written, changed = made(lines), True
                text = marked.sub(lambda match, part=written: f"{match[1]}\n{part}\n\n{match[2]}", text)
        if not changed:
            raise ValueError(f"page: expected marks such as <!-- real rows:begin --> in {page}")
        page.write_text(text, encoding="utf-8")
    (pages[0].parent / CHART).write_text(chart(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), *map(Path, sys.argv[2:]))
