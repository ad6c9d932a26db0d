"""Write the figures of a result into the documentation's page, and draw its charts.

    cd benchmarks && python -m claims.page results/claims.json ../docs/what_selection_is_worth.md ../README.md

What `python -m claims --pool FILE --output results/claims/NAME.json` found of other files is put in as well. Between
`<!-- NAME:begin -->` and `<!-- NAME:end -->` the page holds what this writes; all other text is the author's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from instsel.report.charts import interval_bars, interval_lines

NAMES = {
    "gain, drawn": "gain: drawn from each cluster's better half",
    "gain, proportional": "gain: each cluster's highest",
    "wici paper, cosine": "wICI as published (cosine rule)",
    "wici paper, drawn": "wICI: drawn from each cluster's better half",
    "wici paper, proportional": "wICI: each cluster's highest",
    "random, none": "random rows",
    "random, proportional": "random rows, quotas over clusters",
    "truth, none": "clean rows, random (one who knows)",
    "truth, proportional": "clean rows, quotas (one who knows)",
}
Row = Mapping[str, Any]


def named(selector: str) -> str:
    """What a table calls "score, coverage"."""
    score, coverage = selector.split(", ")
    plain = {"none": "highest", "proportional": "quotas", "drawn": "drawn", "cosine": "cosine rule"}
    return NAMES.get(selector, f"{score}, {plain.get(coverage, coverage)}")


def interval(found: Row, digits: int = 3, *, sign: bool = False) -> str:
    """A mean and its interval."""
    plus = "+" if sign else ""
    return f"{found['mean']:{plus}.{digits}f} ({found['low']:{plus}.{digits}f} to {found['high']:{plus}.{digits}f})"


def p_value(p: float) -> str:
    """A p value to three digits."""
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = "|".join([" --- ", *(" ---: " for _ in head[1:])])
    lines = [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def selectors_table(found: Mapping[str, Row]) -> str:
    """Held-out loss and exact answers of each selector, the lowest loss first."""
    head = ["selected", "pools", "held-out loss", "difference from random rows", "Holm's p", "exact", "clean"]
    rows = []
    for name, row in sorted(found.items(), key=lambda item: (item[1]["from_reference"] or {"mean": 0.0})["mean"]):
        difference = row["from_reference"]
        rows.append([
            named(name), str(row["seeds"]), f"{row['loss']['mean']:.3f}",
            interval(difference, sign=True) if difference else "",
            p_value(difference["p_holm"]) if difference else "",
            f"{row['exact']['mean']:.1%}", f"{row['clean']:.0%}",
        ])  # fmt: skip
    return table(head, rows)


def robustness_table(found: Mapping[str, Row]) -> str:
    """The proposal against random rows and the one who knows, by what was varied."""
    head = ["pools and settings", "pools", "difference from random rows", "share of the way to one who knows"]
    rows = [
        [
            label, str(row["from_random"]["seeds"]), interval(row["from_random"], sign=True),
            interval(row["share_of_distance"], 2) if row["share_of_distance"] else "one who knows is not surely better",
        ]
        for label, row in found.items() if row
    ]  # fmt: skip
    return table(head, rows)


def budgets_table(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Held-out loss by budget."""
    budgets = sorted({budget for rows in found.values() for budget in rows}, key=float)
    cells = [
        [named(name), *(interval(rows[budget]["loss"]) if budget in rows else "" for budget in budgets)]
        for name, rows in found.items()
    ]
    return table(["held-out loss", *(f"{float(budget):.0%}" for budget in budgets)], cells)


def correlations_table(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Spearman's correlation of each difficulty with each rule's influence."""
    names = list(next(iter(found.values())))
    words = {"ifd": "IFD (perplexities)", "ifd of losses": "IFD (losses)", "loss": "loss"}
    rows = []
    for name in names:
        difficulty, rule = name.split(" and ")
        cells = [interval(pools[name], 2, sign=True) for pools in found.values()]
        rows.append([words[difficulty], rule.replace(", all", ""), *cells])
    return table(["difficulty", "influence", *found], rows)


def composition_table(found: Mapping[str, Mapping[str, Row]]) -> str:
    """What the highest and the lowest tenth by each rule are made of."""
    classes = list(next(iter(found.values()))["highest"]["classes"])
    rows = [
        [f"{rule.replace(', all', '')}, {end} tenth", *(f"{row['classes'][one]:.0%}" for one in classes),
         f"{row['tokens']:.0f}", f"{row['ifd']:.2f}", f"{row['loss']:.2f}"]
        for rule, ends in found.items() for end, row in ends.items()
    ]  # fmt: skip
    return table(["rows", *classes, "answer's tokens", "IFD", "loss"], rows)


def predictions_table(found: Mapping[str, Any]) -> str:
    """Rank correlation of a subset's mean with the loss after tuning on it."""
    words = {"clean": "share of clean rows (the truth)", "wici release, all": "wici release"}
    rows = [
        [words.get(name, name), interval(row, 2, sign=True)]
        for name, row in sorted(found.items(), key=lambda item: item[1]["mean"] if item[0] != "pools" else 9)
        if name != "pools"
    ]  # fmt: skip
    return table(["mean over the subset of", "rank correlation with held-out loss"], rows)


def styles_table(found: Mapping[str, Mapping[str, Row]]) -> str:
    """What tuning on each style gave, and what it forgot."""
    rows = []
    for name in sorted(found["right"], key=lambda name: found["other_loss"][name]["mean"]):
        right, loss = found["right"][name], found["other_loss"][name]
        differences = [interval(one["from_own"], 2, sign=True) if one["from_own"] else "" for one in (right, loss)]
        rows.append([name, interval(right, 2), differences[0], interval(loss, 2), differences[1]])
    head = ["tuned on", "right answers to other questions", "from own", "loss on the demo's held-out rows", "from own"]
    return table(head, rows)


def own_table(found: Mapping[str, Mapping[str, Row]]) -> str:
    """Held-out loss after tuning on rows of files, by file, and each rule's difference from random rows."""
    pools = next(iter(found.values()))
    names = sorted(pools, key=lambda name: (pools[name]["from_reference"] or {"mean": 0.0})["mean"])
    rows = []
    for name in names:
        cells = []
        for file in found.values():
            difference = file[name]["from_reference"]
            cells.append(interval(difference, sign=True) if difference else f"loss {file[name]['loss']['mean']:.3f}")
        rows.append([named(name), *cells])
    return table(
        ["selected", *(f"{name}, {file['random, none']['seeds']} pools" for name, file in found.items())], rows
    )


def again_sentence(found: Mapping[str, Any]) -> str:
    """What tunings done again on another processor gave."""
    old, new = found["processors"]
    before, now = (interval(gain, sign=True) for gain in found["proposal minus random"])
    return (
        f"`python -m claims.again` did {found['trials']} of the confirmation's tunings, of {found['pools']} pools, "
        f"again on another processor ({old}, then {new}); {found['rows as before']} of them on the same rows. A "
        f"held-out loss differed by {found['median']:.3f} at the median and {found['largest']:.3f} at most, the mean "
        f"of all by {interval(found['difference'], sign=True)}. `filter` minus random rows was {before} before and "
        f"{now} then."
    )


def headline(found: Mapping[str, Any]) -> str:
    """The first sentence's figures."""
    usual = next(iter(found["robustness"].values()))
    published = found["confirmation"]["wici paper, cosine"]["from_reference"]
    return (
        f"Over {usual['from_random']['seeds']} pools that no choice had seen, tuning on a tenth selected by "
        f"`--procedure filter` left a held-out loss lower than a random tenth's by "
        f"{-usual['from_random']['mean']:.3f} nats a token (95 % interval {-usual['from_random']['high']:.3f} to "
        f"{-usual['from_random']['low']:.3f}): {usual['share_of_distance']['mean']:.0%} of the way to random clean "
        f"rows ({usual['share_of_distance']['low']:.0%} to {usual['share_of_distance']['high']:.0%}), without knowing "
        f"which rows are clean. wICI's published procedure was worse than random rows by {published['mean']:.2f} "
        f"({published['low']:.2f} to {published['high']:.2f})."
    )


# Each part of the page: where its figures stand in the result, and how they are written.
PARTS: dict[str, tuple[tuple[str, ...], Callable[[Any], str]]] = {
    "headline": ((), headline),
    "confirmation": (("confirmation",), selectors_table),
    "robustness": (("robustness",), robustness_table),
    "budgets": (("budgets",), budgets_table),
    "grid": (("grid",), selectors_table),
    "addition": (("addition",), selectors_table),
    "coverage": (("coverage",), selectors_table),
    "tokens": (("tokens",), selectors_table),
    "composition": (("questions", "composition"), composition_table),
    "correlations": (("questions", "difficulty and influence"), correlations_table),
    "predictions": (("questions", "influence and what tuning gains"), predictions_table),
    "styles": (("questions", "styles"), styles_table),
    "real text": (("real text",), own_table),
    "again": (("again",), again_sentence),
}


def written_part(name: str, found: Any) -> str:
    """A part of the page; where this result has no figures for it, that is said."""
    keys, write_part = PARTS[name]
    for key in keys:
        found = found[key]
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
    own = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in result.with_suffix("").glob("*.json")}
    found["again"] = own.get("again", {}).get("again")
    found["real text"] = {name: own[name]["own pool"] for name in sorted(own) if own[name].get("own pool")}
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
