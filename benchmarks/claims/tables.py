"""What each part of the documentation's page says: tables and sentences from the figures of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEMO_MODEL = "model"  # the name of its folder
NAMES = {
    "gain, drawn": "gain: drawn from each cluster's better half",
    "gain, proportional": "gain: each cluster's highest",
    "wici paper, cosine": "wICI as published (cosine rule)",
    "wici paper, proportional": "wICI: each cluster's highest",
    "random, none": "random rows",
    "random, proportional": "random rows, quotas over clusters",
    "truth, none": "clean rows, random (one who knows)",
    "truth, proportional": "clean rows, quotas (one who knows)",
}
SCORES = {"random": "chance (random rows)", "truth": "chance, clean rows only (one who knows)"}
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


def grid_table(found: Mapping[str, Row]) -> str:
    """Each score's difference from random rows with quotas over clusters and without, the best with quotas first."""
    head = ["highest by", "of each cluster", "Holm's p", "clean", "of the whole pool", "Holm's p", "clean"]
    quotas = {name.partition(",")[0]: row for name, row in found.items() if name.endswith(", proportional")}
    rows = []
    for score, row in sorted(quotas.items(), key=lambda item: item[1]["from_reference"]["mean"]):
        both = row, found[f"{score}, none"]
        rows.append([SCORES.get(score, score), *(cell for one in both for cell in difference_cells(one))])
    return table(head, rows)


def difference_cells(row: Row) -> list[str]:
    """The difference from random rows, Holm's p and the share of clean rows; of random rows their own loss."""
    difference = row["from_reference"]
    if difference is None:
        return [f"loss {row['loss']['mean']:.3f}", "", f"{row['clean']:.0%}"]
    return [interval(difference, sign=True), p_value(difference["p_holm"]), f"{row['clean']:.0%}"]


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


def own_tables(found: list[Row]) -> str:
    """Each rule's difference from random rows on files of real text: a table for each model and share of exchanges."""
    groups: dict[tuple[str, float], list[Row]] = {}
    for one in found:
        groups.setdefault((one["plan"]["model"], one["plan"]["corrupted"]), []).append(one)
    written = []
    for (model, share), files in sorted(groups.items(), key=lambda group: (group[0][0] != DEMO_MODEL, *group[0])):
        name = "The demo's model" if model == DEMO_MODEL else model
        about = f"answers of {share:.0%} of the candidates exchanged" if share else "files as they are"
        written.append(f"{name}, {about}:\n\n{own_table(files)}")
    return "\n\n".join(written)


def own_table(files: list[Row]) -> str:
    """A row for each rule that all files have, a column a file; random rows' own loss first."""
    columns = {
        f"{file['plan']['file'].split('_')[0]}, {file['own pool']['random, none']['seeds']} pools": file["own pool"]
        for file in files
    }
    rules = [rule for rule in next(iter(columns.values())) if all(rule in found for found in columns.values())]

    def order(rule: str) -> float:
        differences = [found[rule]["from_reference"] for found in columns.values()]
        return sum(one["mean"] if one else -float("inf") for one in differences)

    rows = []
    for rule in sorted(rules, key=order):
        cells = [(found[rule]["loss"], found[rule]["from_reference"]) for found in columns.values()]
        rows.append([
            named(rule),
            *(interval(one, sign=True) if one else f"loss {loss['mean']:.3f}" for loss, one in cells),
        ])  # fmt: skip
    return table(["selected", *columns], rows)


def again_sentences(found: list[Row]) -> str:
    """What studies done twice gave, on another processor and on the same."""
    return "\n\n".join(map(again_sentence, found))


def again_sentence(found: Row) -> str:
    """What a study done twice gave."""
    old, new = found["processors"]
    where = f"on one processor ({new})" if old == new else f"on two processors ({old}, then {new})"
    done = f"{found['trials']} tunings of {found['pools']} pools were done twice {where}"
    if found["same digits"] == found["trials"]:
        return f"{done}: every held-out loss was the same to the last digit."
    before, now = (interval(gain, sign=True) for gain in found["proposal minus random"])
    return (
        f"{done}, {found['rows as before']} of them on rows of the same counts. A held-out loss differed by "
        f"{found['median']:.3f} at the median and {found['largest']:.3f} at most, the mean of all by "
        f"{interval(found['difference'], sign=True)}. `filter` minus random rows was {before} on the first and {now} "
        f"on the second."
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
