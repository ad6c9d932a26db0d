"""A study done twice, side by side: what stays, and what another processor's rounding does to single tunings.

    cd benchmarks && python -m claims --work FOLDER --output FOLDER.json
    cd benchmarks && python -m claims.again results/claims.json FOLDER.json --output results/claims/again/NAME.json

The folder with each result's lines has its name without `.json`. Embeddings, clusters, selected rows and tuned weights
all follow from numbers whose last digits a processor sets; on one processor everything repeats. Trials that only one
study has are left out; `rows as before` counts those whose selected rows have the same counts in both, `same digits`
those whose held-out loss is the same number. Intervals are over pools.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from claims.intervals import mean_interval
from claims.trials import read_lines

PROPOSAL, REFERENCE = "gain/drawn/0.1/24/model/0.08", "random/none/0.1/24/model/0.08"
Lines = dict[str, dict[str, Any]]


def compare(before: Path, now: Path) -> dict[str, Any]:
    """How the trials that both folders have differ, and what the proposal gains over random rows in each."""
    units: dict[str, tuple[Lines, Lines]] = {}
    for path in sorted((now / "trials").glob("*.jsonl")):
        old, new = (
            {line["name"]: line for line in read_lines(folder / "trials" / path.name)} for folder in (before, now)
        )
        if old.keys() & new.keys():
            units[path.stem] = old, new
    pairs = {unit: [(old[name], new[name]) for name in new if name in old] for unit, (old, new) in units.items()}
    by_pool: dict[str, list[float]] = {}
    for unit, lines in pairs.items():
        differences = by_pool.setdefault(unit.partition("-")[2], [])
        differences += [new["loss"] - old["loss"] for old, new in lines]
    flat = [abs(difference) for differences in by_pool.values() for difference in differences]
    same = ("rows", "tokens", "truth_classes", "num_families")
    confirmed = [both for unit, both in units.items() if unit.startswith("confirmation-")]
    gains = [
        [lines[PROPOSAL]["loss"] - lines[REFERENCE]["loss"] for lines in run] for run in zip(*confirmed, strict=True)
    ]
    return {
        "pools": len(by_pool),
        "trials": len(flat),
        "rows as before": sum(
            all(old[key] == new[key] for key in same) for lines in pairs.values() for old, new in lines
        ),
        "same digits": sum(difference == 0.0 for difference in flat),
        "median": statistics.median(flat),
        "largest": max(flat),
        "difference": mean_interval([statistics.mean(differences) for differences in by_pool.values()]),
        "proposal minus random": [mean_interval(gain) for gain in gains],
    }


def main() -> None:
    """Compare, and write."""
    parser = argparse.ArgumentParser(prog="python -m claims.again", description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="the first study's result")
    parser.add_argument("now", type=Path, help="the second study's result")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    studies = options.before, options.now
    environments = [json.loads(path.read_text())["environment"] for path in studies]
    found = {
        "processors": [one["processor"] for one in environments],
        **compare(*(path.with_suffix("") for path in studies)),
        "environments": environments,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
