"""Everything that was measured, read back and set side by side: tables by part, differences, the papers' questions."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from claims import plan
from claims.descriptions import DIFFICULTIES, RULES, described_pools
from claims.intervals import mean_interval, paired_differences, share_of_distance
from claims.plan import PoolKey
from claims.questions import PREDICTORS
from claims.trials import Setting, read_lines

Line = dict[str, Any]


def findings(setting: Setting, own: tuple[Path, float] | None) -> dict[str, Any]:
    """The whole result as JSON: what was compared, on what, and every table.

    `own` is somebody's own pool, and the share of its answers that were exchanged.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from environment import environment

    lines = [line for path in sorted((setting.folder / "trials").glob("*.jsonl")) for line in read_lines(path)]
    parts: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        parts[line["part"]].append(line)
    found: dict[str, Any] = {"environment": environment(), "plan": _plan(setting)}
    if own is not None:
        pool, corrupted = own
        lines = [line for line in parts["own pool"] if line["pool"]["corrupted"] == corrupted]
        found["plan"] |= {"file": pool.stem, "model": Path(setting.model).name, "corrupted": corrupted}
        return found | {"own pool": compared(lines, ("random", "none"))}
    described = _described(setting)
    tables = {
        "grid": compared(parts["grid"], ("random", "none")),
        "confirmation": compared(parts["confirmation"], ("random", "none")),
        "robustness": robustness(parts),
        "budgets": budgets(parts),
    }
    return (
        found
        | tables
        | {
            "questions": {
                "composition": _composition(described),
                "difficulty and influence": _correlations(described),
                "influence and what tuning gains": _predictions(setting),
                "styles": _styles(setting),
            }
        }
    )


def _plan(setting: Setting) -> dict[str, Any]:
    rate = setting.folder / "learning_rate.json"
    return {
        "pool": plan.POOL_SIZE, "held_out": plan.HELD_OUT, "epochs": plan.EPOCHS, "batch": plan.BATCH,
        "exploring": list(plan.EXPLORING), "confirming": list(plan.CONFIRMING), "clusters": plan.CLUSTERS,
        "learning_rate": json.loads(rate.read_text()) if rate.is_file() else None,
    }  # fmt: skip


def by_selector(lines: Iterable[Line]) -> dict[str, dict[int, Line]]:
    """Lines by "score, coverage" and seed."""
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    for line in lines:
        found[f"{line['score']}, {line['coverage']}"][line["pool"]["seed"]] = line
    return dict(found)


def compared(lines: list[Line], reference: tuple[str, str]) -> dict[str, Any]:
    """Held-out loss and exact answers of each selector, and its paired difference from a reference."""
    selectors = by_selector(lines)
    losses = {name: {seed: line["loss"] for seed, line in seeds.items()} for name, seeds in selectors.items()}
    if ", ".join(reference) not in losses:
        return {}
    differences = paired_differences(losses, ", ".join(reference))
    return {
        name: {
            "seeds": len(seeds),
            "loss": mean_interval([line["loss"] for line in seeds.values()]),
            "exact": mean_interval([line["exact"] for line in seeds.values()]),
            "rows": float(np.mean([line["rows"] for line in seeds.values()])),
            "tokens": float(np.mean([line["tokens"] for line in seeds.values()])),
            "clean": float(np.mean([_clean(line) for line in seeds.values()])),
            "families": float(np.mean([line["num_families"] for line in seeds.values()])),
            "from_reference": differences.get(name),
        }
        for name, seeds in selectors.items()
    }


def _clean(line: Line) -> float:
    return float(sum(line["truth_classes"].get(one, 0) for one in ("clean", "duplicate")) / line["rows"])


def robustness(parts: dict[str, list[Line]]) -> dict[str, Any]:
    """The proposal against random, and the share of the way to the one who knows, by what was varied."""
    proposed, random, truth = (", ".join(one) for one in (plan.PROPOSED, ("random", "none"), ("truth", "none")))
    usual = by_selector(parts["confirmation"])
    found = {"24 clusters, the model's own embeddings, 40 % corrupted": _against(usual, proposed, random, truth)}
    for line_filter, label in (
        (lambda line: line["clusters"] == 12, "12 clusters"),
        (lambda line: line["clusters"] == 48, "48 clusters"),
    ):
        varied = by_selector(filter(line_filter, parts["clusters"]))
        found[label] = _against(usual | varied, proposed, random, truth)
    found["a sentence model's embeddings"] = _against(
        usual | by_selector(parts["embeddings"]), proposed, random, truth
    )  # fmt: skip
    for share in sorted({line["pool"]["corrupted"] for line in parts["corruption"]}):
        varied = by_selector(line for line in parts["corruption"] if line["pool"]["corrupted"] == share)
        found[f"{5 * share:.0%} corrupted"] = _against(varied, proposed, random, truth)
    return found


def _against(selectors: dict[str, dict[int, Line]], name: str, random: str, truth: str) -> dict[str, Any]:
    losses = {
        one: {seed: line["loss"] for seed, line in selectors.get(one, {}).items()} for one in (name, random, truth)
    }
    if not all(losses.values()):
        return {}
    # Where one who knows the truth is not surely better than chance, there is no way to have gone a share of.
    known = paired_differences({one: losses[one] for one in (random, truth)}, random)[truth]
    return {
        "loss": {one: mean_interval(list(values.values())) for one, values in losses.items()},
        "from_random": paired_differences({one: losses[one] for one in (name, random)}, random)[name],
        "share_of_distance": share_of_distance(losses, name, random, truth) if known["high"] < 0 else None,
    }


def budgets(parts: dict[str, list[Line]]) -> dict[str, Any]:
    """Held-out loss by selector and budget, on the confirming seeds."""
    lines = [
        line for part in ("confirmation", "budgets", "large budget") for line in parts[part]
        if (line["score"], line["coverage"]) in plan.CURVES
    ]  # fmt: skip
    found: dict[str, Any] = {name: {} for name in sorted(", ".join(one) for one in plan.CURVES)}
    for budget in sorted({line["budget"] for line in lines}):
        rows = compared([line for line in lines if line["budget"] == budget], ("random", "none"))
        for name, row in rows.items():
            found[name][f"{budget:g}"] = row
    return found


def _described(setting: Setting) -> list[tuple[PoolKey, Line]]:
    keys = [PoolKey(seed) for seed in plan.EXPLORING]
    return described_pools(
        setting.folder, keys + [PoolKey(seed, share) for share in (0.08, 0.0) for seed in plan.CONFIRMING]
    )  # fmt: skip


def _composition(described: list[tuple[PoolKey, Line]]) -> dict[str, Any]:
    """The mean over pools of what their highest and lowest tenths are made of."""
    each = [about["composition"] for key, about in described if key.corrupted == 0.08]
    return _mean(each) if each else {}


def _mean(each: list[Any]) -> Any:
    """The mean of numbers that stand at the same place in nested dictionaries; what one of them lacks is 0."""
    if not isinstance(each[0], dict):
        return float(np.mean(each))
    names = dict.fromkeys(name for one in each for name in one)
    return {name: _mean([one.get(name, 0.0) for one in each]) for name in names}


def _correlations(described: list[tuple[PoolKey, Line]]) -> dict[str, Any]:
    """Spearman's correlation of each difficulty with each rule's influence, over pools; 8 seeds or more each."""
    found: dict[str, Any] = {}
    for share, label in ((0.08, "40 % corrupted"), (0.0, "0 % corrupted")):
        pools = [about["correlations"] for key, about in described if key.corrupted == share]
        if len(pools) > 1:
            pairs = [f"{difficulty} and {rule}" for difficulty in DIFFICULTIES for rule in RULES]
            found[label] = {pair: mean_interval([pool[pair] for pool in pools]) for pair in pairs}
    return found


def _predictions(setting: Setting) -> dict[str, Any]:
    """Rank correlation, within a pool, of a small subset's mean score with the held-out loss after tuning on it."""
    from scipy import stats

    by_pool = [read_lines(path) for path in sorted((setting.folder / "subsets").glob("*.jsonl"))]
    by_pool = [lines for lines in by_pool if len(lines) == plan.SMALL_SUBSETS]
    if len(by_pool) < 2:
        return {}
    return {
        name: mean_interval([
            float(stats.spearmanr([line[name] for line in lines], [line["held_out_loss"] for line in lines]).statistic)
            for lines in by_pool
        ])
        for name in (*PREDICTORS, "clean")
    } | {"pools": len(by_pool)}  # fmt: skip


def _styles(setting: Setting) -> dict[str, Any]:
    lines = [line for path in sorted((setting.folder / "styles").glob("*.jsonl")) for line in read_lines(path)]
    found: dict[str, Any] = {}
    for what in ("right", "other_loss"):
        values: dict[str, dict[int, float]] = defaultdict(dict)
        for line in lines:
            values[line["style"]][line["seed"]] = line[what]
        if not values:
            return {}
        differences = paired_differences(values, "own")
        found[what] = {
            name: {**mean_interval(list(by_seed.values())), "from_own": differences.get(name)}
            for name, by_seed in values.items()
        }
    return found
