"""The confirmation's tunings done again, beside those on record: what another processor's rounding does to them.

    cd benchmarks && python -m claims.again results/claims --work FOLDER --output results/claims/again.json

Embeddings, clusters, selected rows and tuned weights all follow from numbers whose last digits a processor sets; on one
processor everything repeats. `rows as before` counts the trials whose selected rows have the same counts here.
Intervals are over pools.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from claims import plan
from claims.__main__ import DEMO_MODEL, run_tasks
from claims.intervals import mean_interval
from claims.trials import Setting, read_lines, run_unit
from environment import environment

PROPOSAL, REFERENCE = "gain/drawn/0.1/24/model/rows/0.08", "random/none/0.1/24/model/rows/0.08"


def compare(before: Path, now: Path) -> dict[str, Any]:
    """How the trials that both folders have differ, and what the proposal gains over random rows in each."""
    pools = [
        tuple({line["name"]: line for line in read_lines(folder / "trials" / path.name)} for folder in (before, now))
        for path in sorted((now / "trials").glob("confirmation-*.jsonl"))
    ]
    pairs = [[(old[name], new[name]) for name in new if name in old] for old, new in pools]
    differences = [[new["loss"] - old["loss"] for old, new in pool] for pool in pairs]
    flat = [abs(difference) for pool in differences for difference in pool]
    same = ("rows", "tokens", "truth_classes", "num_families")
    gains = [[lines[PROPOSAL]["loss"] - lines[REFERENCE]["loss"] for lines in run] for run in zip(*pools, strict=True)]
    return {
        "pools": len(pools),
        "trials": len(flat),
        "rows as before": sum(all(old[key] == new[key] for key in same) for pool in pairs for old, new in pool),
        "median": statistics.median(flat),
        "largest": max(flat),
        "difference": mean_interval([statistics.mean(pool) for pool in differences]),
        "proposal minus random": [mean_interval(gain) for gain in gains],
    }


def main() -> None:
    """Run what is left to run, compare, and write."""
    parser = argparse.ArgumentParser(prog="python -m claims.again", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="folder of the study on record")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is measured now")
    parser.add_argument("--pools", type=int, default=8, help="how many of the confirmation's pools")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    recorded = json.loads((options.before / "learning_rate.json").read_text())["learning_rate"]
    setting = Setting(folder=options.work, model=str(DEMO_MODEL), learning_rate=recorded, short_rows=True)
    units = [
        (key, tuple(trial for trial in trials if trial.embeddings == "model"))
        for key, trials in plan.units()["confirmation"]
        if key.seed in plan.CONFIRMING[: options.pools]
    ]
    run_tasks([partial(run_unit, setting, *unit) for unit in units], processes=2)
    processors = [json.loads(options.before.with_suffix(".json").read_text())["environment"], environment()]
    found = {"processors": [one["processor"] for one in processors], **compare(options.before, options.work)}
    options.output.write_text(json.dumps({"again": found, "environment": processors[1]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
