"""Tables out of the records: held-out losses of each rule, paired by seed with those of random rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from intervals import mean_interval, paired_differences, written
from real_rows import plan

Record = Mapping[str, Any]
STAGES = {
    "exploring": "exploring seeds", "influence": "exploring seeds", "confirming": "confirming seeds",
    "further": "further confirming seeds", "tokens": "confirming seeds",
    "budgets": "confirming seeds", "anchors": "exploring seeds",
}  # fmt: skip


def tables(records: Sequence[Record]) -> str:
    """For each model, source, share of damage and set of seeds: what was done, and the table."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if record["part"] in STAGES and "after" in record:
            cell = record["cell"]
            key = (record["model"], record["source"], STAGES[record["part"]], -cell["damaged"], cell["budget"])
            groups.setdefault(key, []).append(record)
    parts = [f"{_title(key, found)}\n\n{rules_table(found)}" for key, found in sorted(groups.items())]
    subsets = [record for record in records if "means" in record]
    for model, source in sorted({(record["model"], record["source"]) for record in subsets}):
        own = [record for record in subsets if (record["model"], record["source"]) == (model, source)]
        parts.append(_predictions(model, source, own))
    seen = [record for record in records if "seen" in record]
    for model, source in sorted({(record["model"], record["source"]) for record in seen}):
        own = [record["seen"] for record in seen if (record["model"], record["source"]) == (model, source)]
        parts.append(f"**{source}: what is seen of the damage** ({len(own)} seeds; {model}):\n\n{seen_table(own)}")
    for damaged in (plan.DAMAGED, 0.0):
        found = [one for one in records if "followed" in one and one["cell"]["damaged"] == damaged]
        for model, source in sorted({(one["model"], one["source"]) for one in found}):
            own = [one["followed"] for one in found if (one["model"], one["source"]) == (model, source)]
            pool = f"{damaged:.0%} of the pool damaged" if damaged else "the pool as it is"
            parts.append(
                f"**{source}, {pool}: what influence follows** ({len(own)} seeds; {model}):\n\n{followed_table(own)}"
            )
    return "\n\n".join(parts)


def followed_table(followed: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Rank correlations of each kind of influence, and its areas under the curve: mean, lowest and highest of seeds."""
    rows = [
        [
            f"correlation with {name}" if not name.startswith("seen_") else f"sees {name.removeprefix('seen_')}",
            *(_spread([one[rule][name] for one in followed if name in one[rule]]) for rule in followed[0]),
        ]
        for name in dict.fromkeys(name for one in followed for rule in one.values() for name in rule)
    ]
    return table(["", *followed[0]], rows)


def seen_table(seen: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """The share that the filters leave out of each kind, and each score's area under the curve against clean rows.

    The mean over seeds, with the lowest and the highest.
    """
    names = list(dict.fromkeys(name for one in seen for scores in one.values() for name in scores))
    rows = []
    for kind in sorted({kind for one in seen for kind in one}):
        cells = [[one[kind][name] for one in seen if name in one.get(kind, {})] for name in names]
        rows.append([
            kind,
            *(
                f"{np.mean(values):.0%}" if name == "filters" else _spread(values) if values else ""
                for name, values in zip(names, cells, strict=True)
            ),
        ])  # fmt: skip
    return table(["damage", *("left out by filters" if name == "filters" else name for name in names)], rows)


def rules_table(records: Sequence[Record]) -> str:
    """A row for each rule, the lowest difference from random rows first."""
    losses = losses_by_rule(records)
    from_random, from_covered = (differences(losses, reference) for reference in (plan.RANDOM, plan.COVERED))
    head = [
        "selected", "seeds", "held-out loss", "minus random rows", "Holm's p", "minus random with coverage", "Holm's p",
        "damaged", "tokens",
    ]  # fmt: skip
    ranked = any("candidates" in record for record in records)
    head += ["right answers above wrong ones"] if ranked else []
    rows = []
    for rule in sorted(losses, key=lambda rule: from_random[rule]["mean"] if rule in from_random else 0.0):
        own = [record for record in records if record["cell"]["rule"] == rule]
        rows.append([
            rule, str(len(losses[rule])), f"{np.mean(list(losses[rule].values())):.3f}",
            *_difference(from_random.get(rule)), *_difference(from_covered.get(rule)),
            f"{np.mean([record['damaged_share'] for record in own]):.0%}",
            f"{np.mean([record['tokens'] for record in own]):,.0f}",
            *([_spread([record["candidates"]["pairs"] for record in own if "candidates" in record])] if ranked else []),
        ])  # fmt: skip
    return table(head, rows)


def losses_by_rule(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    """The held-out loss of each rule by seed."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        found.setdefault(record["cell"]["rule"], {})[record["cell"]["seed"]] = record["after"]["all"]
    return found


def differences(losses: Mapping[str, Mapping[int, float]], reference: str) -> dict[str, dict[str, Any]]:
    """Each rule's loss minus the reference's on the same seeds; nothing where no two seeds have both."""
    return paired_differences(losses, reference) if reference in losses else {}


def _predictions(model: str, source: str, records: Sequence[Record]) -> str:
    """Within each pool: does a higher mean of a score over random rows go with a lower loss after tuning on them?"""
    from scipy import stats

    seeds = sorted({record["cell"]["seed"] for record in records})
    rows = []
    for name in records[0]["means"]:
        found = []
        for seed in seeds:
            own = [record for record in records if record["cell"]["seed"] == seed]
            means, losses = [one["means"][name] for one in own], [one["after"]["all"] for one in own]
            found.append(float(stats.spearmanr(means, losses).statistic))
        rows.append([name, written(mean_interval(found), 2, sign=True) if len(found) > 1 else f"{found[0]:+.2f}"])
    rows.sort(key=lambda row: float(row[1].split()[0]))
    head = (
        f"**{source}, {plan.DAMAGED:.0%} of the pool damaged: does a score predict what tuning on random rows gains?**"
    )
    return f"{head} ({len(records)} tunings on {len(seeds)} pools; {model}):\n\n" + table(
        ["mean over the rows of", "rank correlation with the held-out loss"], rows
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = "|".join([" --- ", *(" ---: " for _ in head[1:])])
    lines = [f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def _p_value(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _difference(found: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("", "") if found is None else (written(found, sign=True), _p_value(found["p_holm"]))


def _title(key: tuple[Any, ...], records: Sequence[Record]) -> str:
    model, source, stage, undamaged, budget = key
    seeds = sorted({record["cell"]["seed"] for record in records})
    own = {STAGES["confirming"]: plan.CONFIRMING, STAGES["further"]: plan.FURTHER}
    planned = len(own.get(stage, plan.EXPLORING))
    before = {record["cell"]["seed"]: record["before"]["all"] for record in records}
    begun = mean_interval(list(before.values()))["mean"]
    pool = f"{-undamaged:.0%} of the pool damaged" if undamaged else "the pool as it is"
    return (
        f"**{source}, {pool}, {stage}** ({len(seeds)} of {planned} begun; {model}; {budget:.0%} of the rows; "
        f"before tuning {begun:.3f}):"
    )
