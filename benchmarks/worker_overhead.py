"""One method on two workers of one core each against one process with two threads, the models loaded before.

    python benchmarks/worker_overhead.py pool.jsonl --rows 1000 --output benchmarks/results/worker_overhead.json

Both run in memory, in turns. The seconds that the workers took to start stand beside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment

import instsel
from instsel.demo import __file__ as demo


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--model", default=str(Path(demo).parent / "model"))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.pool.read_text(encoding="utf-8").splitlines()[: args.rows]]
    torch.set_num_threads(args.workers)
    scorer = instsel.Scorer(args.model, device="cpu", dtype=args.dtype)
    seconds: dict[str, list[float]] = {"one process": [], "workers": []}
    began = time.perf_counter()
    with instsel.workers(scorer, args.workers, threads=1) as pool:
        start = time.perf_counter() - began
        for of in (scorer, pool):
            instsel.wici(of, rows[:64])
        for _ in range(args.pairs):
            for name, of in (("one process", scorer), ("workers", pool)):
                began = time.perf_counter()
                found = instsel.wici(of, rows)
                seconds[name].append(time.perf_counter() - began)
                print(name, seconds[name][-1], flush=True)
                if of is scorer:
                    expected = found
            difference = float(np.nanmax(abs(found.score - expected.score)))
        busy = [worker["seconds"] for worker in pool.told()]
    result = {
        "environment": environment(),
        "rows": len(rows),
        "workers": args.workers,
        "dtype": args.dtype,
        "seconds": seconds,
        "ratio": statistics.median(seconds["workers"]) / statistics.median(seconds["one process"]),
        "start_seconds": start,
        "busy_seconds_of_each_worker": busy,
        "largest_difference_of_scores": difference,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
