"""What likelihood favours among several answers to one instruction: looping ones, long ones, right ones.

    python benchmarks/winners.py --model SmolLM2-135M-Instruct --groups answers.jsonl --output benchmarks/results
    python benchmarks/winners.py --page docs/methods/grape.md

Groups are spread evenly over the file; their lines hold `instruction`, `input` and `candidates`, each with `response`
and perhaps `source` and `correct`. Where answers are marked correct, groups need a right and a wrong one, without those
of the source `ground_truth`, which would be known by their style.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import tables
from environment import environment

import instsel
from instsel.methods.grape import best_of
from instsel.records import Group
from instsel.records.repetition import REPEATED, repeated_share
from instsel.selection.group_winners import winners_of

RESULTS = Path(__file__).with_name("results")
REFERENCE = "ground_truth"
WAYS = {"as published": None, f"--max-repetition {REPEATED:g}": REPEATED}


def read_groups(path: Path, count: int) -> list[dict[str, Any]]:
    """`count` groups of a file, or all where there are fewer."""
    groups = []
    for line in path.read_text(encoding="utf-8").splitlines():
        group = json.loads(line)
        group["candidates"] = [one for one in group["candidates"] if one.get("source") != REFERENCE]
        marks = {one.get("correct") for one in group["candidates"] if one["response"].strip()}
        if marks == {None} or marks == {True, False}:
            groups.append(group)
    count = min(count, len(groups))
    return [groups[i * len(groups) // count] for i in range(count)]


def measure(scorer: Any, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the best answers are like by each way; `correct` and what it is by chance where answers are marked."""
    scores = instsel.grape(scorer, groups).scores
    answers = [[one["response"] for one in group["candidates"]] for group in groups]
    found: dict[str, dict[str, Any]] = {}
    for name, limit in WAYS.items():
        looping = [None if limit is None else [repeated_share(one) > limit for one in group] for group in answers]
        best = [best_of(one, repeated) for one, repeated in zip(scores, looping, strict=True)]
        won = winners_of([Group("", responses=tuple(group)) for group in answers], best)
        found[name] = {one: getattr(won, one) for one in won.__slots__}
        if "correct" in groups[0]["candidates"][0]:
            right = [[bool(one["correct"]) for one in group["candidates"]] for group in groups]
            chosen = [group[place] for group, place in zip(right, best, strict=True) if place >= 0]
            found[name]["correct"] = float(np.mean(chosen))
            found[name]["correct_by_chance"] = float(np.mean([np.mean(group) for group in right]))
    return found


def table(results: list[dict[str, Any]]) -> str:
    """One row a model, a file and a way."""
    head = ["answers", "model", "chosen", "groups", "loop (by chance)", "length, of the mean", "right (by chance)"]
    rows = []
    for result in sorted(results, key=lambda one: (one["file"], one["model"])):
        for name, found in result["ways"].items():
            right = f"{found['correct']:.0%} ({found['correct_by_chance']:.0%})" if "correct" in found else ""
            shares = f"{found['repeated']:.0%} ({found['by_chance']:.0%})"
            rows.append([result["file"], result["model"], name, str(found["groups"]), shares])
            rows[-1] += [f"{found['length']:.2f}", right]
    return tables.table(head, rows)


def main() -> None:
    """Measure and print; with `--output` write one JSON file into that folder, with `--page` the table into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name of the hub")
    parser.add_argument("--groups", type=Path, nargs="+", default=[], help="files of JSON lines")
    parser.add_argument("--count", type=int, default=40, help="groups of each file")
    parser.add_argument("--output", type=Path, help="folder for the result files")
    parser.add_argument("--page", type=Path, help="page whose table is written from the results that there are")
    options = parser.parse_args()
    scorer = instsel.Scorer(options.model) if options.groups else None
    for path in options.groups:
        name = Path(options.model).name.lower()
        result = {"benchmark": "winners", "model": name, "file": path.stem.rpartition("_")[0]}
        result["ways"] = measure(scorer, read_groups(path, options.count))
        print(table([result]), flush=True)
        if options.output:
            file = options.output / f"winners_{name}_{result['file']}.json"
            file.write_text(json.dumps({**result, "environment": environment("cpu")}, indent=1) + "\n")
    if options.page:
        results = tables.load(RESULTS)["winners"]
        options.page.write_text(tables.insert(options.page.read_text(), table(results), "winners"))


if __name__ == "__main__":
    main()
