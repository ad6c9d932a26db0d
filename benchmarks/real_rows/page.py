"""Write the records' tables into the study's page.

    cd benchmarks && python -m real_rows.page results/real_rows.jsonl ../docs/project/study.md

Between `<!-- real rows:begin -->` and `<!-- real rows:end -->` the page holds what this writes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from claims.trials import read_lines
from real_rows.tables import tables

MARKED = re.compile("(<!-- real rows:begin -->\n).*?(<!-- real rows:end -->)", re.DOTALL)


def write(records: Path, page: Path) -> None:
    """Put the tables between the page's marks; ValueError where it has none."""
    text = page.read_text(encoding="utf-8")
    if not MARKED.search(text):
        raise ValueError(f"page: expected the marks <!-- real rows:begin --> and <!-- real rows:end --> in {page}")
    written = tables(read_lines(records))
    page.write_text(MARKED.sub(lambda match: f"{match[1]}\n{written}\n\n{match[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
