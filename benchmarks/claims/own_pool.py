"""The same question asked of somebody's own model and files: which tenth teaches it most?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from claims import plan
from claims.plan import PoolKey, Trial
from claims.pools import exchange_answers, file_pool
from claims.trials import Bench, Setting, read_lines, run_trials

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
COMPARED = (
    plan.PROPOSED, plan.PUBLISHED, ("random", "none"), ("random", "proportional"), ("perplexity low", "proportional"),
    ("ifd high", "proportional"), ("wici paper", "proportional"), ("length", "proportional"),
)  # fmt: skip


def own_units(setting: Setting, options: Any) -> Iterator[Callable[[], object]]:
    """One task a seed."""
    for seed in plan.CONFIRMING[: options.seeds]:
        yield partial(own_unit, setting, PoolKey(seed, options.corrupted), options)


def own_unit(setting: Setting, key: PoolKey, options: Any) -> None:
    """Draw a pool and held-out rows, choose the learning rate on random tenths, and run every comparison."""
    from transformers import AutoTokenizer

    compared = (*COMPARED, ("truth", "none")) if key.corrupted else COMPARED
    path = setting.folder / "trials" / f"own-{key.name}.jsonl"
    if len(read_lines(path)) == len(compared):
        return
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    drawn = file_pool(
        options.pool, options.heldout, key.seed, options.pool_size, plan.HELD_OUT, tokenizer, options.longest
    )  # fmt: skip
    bench = Bench(setting, key, exchange_answers(drawn, key))
    count = max(1, round(plan.BUDGET * options.pool_size))
    rows = np.random.default_rng(key.seed + 1).choice(options.pool_size, count, replace=False).tolist()
    # On other random rows than those that stand as "random" below.
    rate = min(RATES, key=lambda rate: bench.outcome(rows, count, rate).loss)
    run_trials(bench, [Trial("own pool", key, score, coverage) for score, coverage in compared], path, rate)
