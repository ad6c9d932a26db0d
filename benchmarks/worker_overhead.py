"""One method on two workers of one core each against one process with two threads, the models loaded before.

    python benchmarks/worker_overhead.py pool.jsonl --rows 1000 --output benchmarks/results/worker_overhead.json

Both run in memory, in turns. The seconds that the workers took to start stand beside. `--only` measures one of the two
and adds it to what the output holds of the same settings: where a quiet machine is to be had for a minute at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment

import instsel
from instsel.demo import __file__ as demo

SIDES = ("one process", "workers")


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--model", default=str(Path(demo).parent / "model"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.pool.read_text(encoding="utf-8").splitlines()[: args.rows]]
    torch.set_num_threads(args.workers)
    scorer = instsel.Scorer(args.model, device="cpu", dtype=args.dtype)
    sides = [args.only] if args.only else list(SIDES)
    result: dict[str, Any] = {"rows": len(rows), "workers": args.workers, "dtype": args.dtype}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    if args.only and args.output is not None and args.output.exists():
        before = json.loads(args.output.read_text(encoding="utf-8"))
        if all(before[name] == value for name, value in result.items()):
            result, seconds = before, before["seconds"]
    with contextlib.ExitStack() as stack:
        scorers: dict[str, Any] = {"one process": scorer}
        if "workers" in sides:
            began = time.perf_counter()
            scorers["workers"] = stack.enter_context(instsel.workers(scorer, args.workers, threads=1))
            result["start_seconds"] = time.perf_counter() - began
        for side in sides:
            instsel.wici(scorers[side], rows[:64])
        found = {}
        for _ in range(args.pairs):
            for side in sides:
                began = time.perf_counter()
                found[side] = instsel.wici(scorers[side], rows).score
                seconds[side].append(time.perf_counter() - began)
                print(side, seconds[side][-1], flush=True)
        if "workers" in sides:
            result["busy_seconds_of_each_worker"] = [worker["seconds"] for worker in scorers["workers"].told()]
    if len(found) == 2:
        result["largest_difference_of_scores"] = float(np.nanmax(abs(found["workers"] - found["one process"])))
    result |= {"environment": environment(), "seconds": seconds}
    if all(seconds.values()):
        result["ratio"] = statistics.median(seconds["workers"]) / statistics.median(seconds["one process"])
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
