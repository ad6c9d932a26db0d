"""What the further seeds say of the rules that are recommended, in a sentence and in a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from intervals import written
from real_rows import plan
from real_rows.tables import Record, differences, losses_by_rule

from instsel.report.charts import interval_bars

POOLS = {plan.DAMAGED: f"{plan.DAMAGED:.0%} of the pool damaged", 0.0: "the pool as it is"}


def confirmed(records: Sequence[Record]) -> dict[str, dict[float, dict[str, dict[str, Any]]]]:
    """By source and share of damage: each rule's paired difference from random rows with coverage."""
    found: dict[str, dict[float, dict[str, dict[str, Any]]]] = {}
    own = [one for one in records if one["part"] == "further" and one["cell"]["budget"] == plan.BUDGET]
    for source in dict.fromkeys(one["source"] for one in own):
        for damaged in POOLS:
            here = [one for one in own if one["source"] == source and one["cell"]["damaged"] == damaged]
            found.setdefault(source, {})[damaged] = differences(losses_by_rule(here), plan.COVERED)
    return found


def headline(records: Sequence[Record]) -> str:
    """A sentence for each source and kind of pool: the recommended rule against random rows with coverage."""
    parts = []
    for source, by_damage in confirmed(records).items():
        for damaged, found in by_damage.items():
            if plan.RECOMMENDED[0] in found:
                parts.append(f"- {source}, {POOLS[damaged]}: {_said(found[plan.RECOMMENDED[0]])}")
    return "\n".join(parts) or "*Not measured yet.*"


def _said(found: Mapping[str, Any]) -> str:
    seeds = f"over {found['seeds']} fresh pools"
    if found["high"] < 0:
        word = "better"
    elif found["low"] > 0:
        word = "worse"
    else:
        word = "no difference shown"
    return f"**{word}**, {written(found, sign=True)} nats a token {seeds}"


def chart(records: Sequence[Record]) -> str:
    """An SVG of the differences from random rows with coverage on the further seeds."""
    bars = {}
    for source, by_damage in confirmed(records).items():
        for damaged, found in by_damage.items():
            for rule in (*plan.RECOMMENDED, plan.RANDOM):
                if rule in found:
                    one = found[rule]
                    bars[f"{rule}; {source}, {POOLS[damaged]}"] = (one["mean"], one["low"], one["high"])
    return interval_bars(
        bars, title="Held-out loss after tuning on a tenth, minus that of random rows with coverage",
        axis="nats a token; left of the line is better than random rows with coverage", reference=0.0, origin=None,
    )  # fmt: skip
