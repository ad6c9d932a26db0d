"""The learning rate, chosen on random subsets alone, before any method has selected anything."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from claims import plan
from claims.trials import Bench, Setting


def chosen_learning_rate(setting: Setting) -> dict[str, Any]:
    """The rate of `plan.LEARNING_RATES` with the lowest held-out loss over random tenths of pools of their own.

    Gives `learning_rate`, and `losses` by rate, one for each of `plan.TUNING_SEEDS`; kept in a file.
    """
    path = setting.folder / "learning_rate.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    losses: dict[float, list[float]] = {rate: [] for rate in plan.LEARNING_RATES}
    for seed in plan.TUNING_SEEDS:
        bench = Bench(setting, plan.PoolKey(seed))
        count = round(plan.BUDGET * len(bench.pool.rows))
        rows = np.random.default_rng(seed).choice(len(bench.pool.rows), count, replace=False).tolist()
        for rate in plan.LEARNING_RATES:
            losses[rate].append(bench.outcome(rows, count, rate).loss)
    best = min(plan.LEARNING_RATES, key=lambda rate: statistics.fmean(losses[rate]))
    found = {"learning_rate": best, "losses": {f"{rate:g}": values for rate, values in losses.items()}}
    _write(path, found)
    return found


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)
