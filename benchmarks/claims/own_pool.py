"""The same question asked of somebody's own model and files: which tenth teaches it most?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from claims import plan
from claims.plan import PoolKey, Trial
from claims.pools import file_pool
from claims.trials import Bench, Setting, run_trials

RATES = (1e-4, 3e-4, 1e-3)
COMPARED = (
    plan.PROPOSED, plan.PUBLISHED, ("random", "none"), ("random", "proportional"), ("perplexity low", "proportional"),
    ("ifd high", "proportional"), ("wici paper", "proportional"), ("length", "proportional"),
)  # fmt: skip


def own_units(setting: Setting, options: Any) -> Iterator[Callable[[], object]]:
    """One task a seed."""
    for seed in plan.CONFIRMING[: options.seeds]:
        yield partial(
            own_unit, setting, seed, options.pool, options.heldout, options.pool_size, options.longest
        )  # fmt: skip


def own_unit(setting: Setting, seed: int, pool: Path, heldout: Path | None, size: int, longest: int) -> None:
    """Draw a pool and held-out rows, choose the learning rate on random tenths, and run every comparison."""
    from transformers import AutoTokenizer

    key = PoolKey(seed, 0.0)
    drawn = file_pool(
        pool, heldout, seed, size, plan.HELD_OUT, AutoTokenizer.from_pretrained(setting.model), longest
    )  # fmt: skip
    bench = Bench(setting, key, drawn)
    count = max(1, round(plan.BUDGET * size))
    rows = np.random.default_rng(seed + 1).choice(size, count, replace=False).tolist()
    # On other random rows than those that stand as "random" below.
    rate = min(RATES, key=lambda rate: bench.outcome(rows, count, rate).loss)
    trials = [Trial("own pool", key, score, coverage) for score, coverage in COMPARED]
    run_trials(bench, trials, setting.folder / "trials" / f"own-{seed}.jsonl", rate)
