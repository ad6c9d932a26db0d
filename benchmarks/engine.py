"""Time of `score_batch` against its arithmetic floor, and the memory it takes beyond the weights.

    python benchmarks/engine.py --model smollm2-135m --workload wici-k5 --size 64 --dtype bfloat16 float32

Each run is one call with everything as a user would call it, tokens given as ids. The matrix rate is measured before
and after each run; a run is judged by the higher of the two, and the median of the runs is reported. Beside it stands
the rate of torch's own products with the layers' weights and nothing else. `--profile` prints where one run's time
went.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import models
import workloads
from environment import environment
from floor import best_rate, layers_rate
from memory import peak_memory

import instsel


def measure(
    model: str,
    work: workloads.Workload,
    dtype: str,
    *,
    device: str = "cpu",
    runs: int = 3,
    max_batch_tokens: int | str = "auto",
    rate_seconds: float = 1.5,
) -> dict[str, Any]:
    """One result: the plan's counts and for each run seconds, matrix rate and fraction of the floor."""
    scorer = instsel.Scorer(models.make_model(model, dtype, device=device), max_batch_tokens=max_batch_tokens)
    plan = instsel.plan_batch(scorer, work.requests)
    with peak_memory(device) as peak:  # of a run of its own, the first, with the checks at load
        batch = instsel.score_batch(scorer, work.requests)
        extra = peak()
    seconds, layers, rates = [], [], [best_rate(dtype, device, seconds=rate_seconds)]
    for _ in range(runs):
        batch = instsel.score_batch(scorer, work.requests)
        rates.append(best_rate(dtype, device, seconds=rate_seconds))
        layers.append(layers_rate(scorer.model.model, min(scorer.budget, 2048)))
        seconds.append(batch.stats.seconds)
    assert (batch.status == "ok").all()
    assert batch.stats.tokens_forwarded == plan.tokens_forwarded
    floors = [plan.estimated_flops / max(pair) for pair in itertools.pairwise(rates)]
    fractions = [floor / second for floor, second in zip(floors, seconds, strict=True)]
    return {
        "benchmark": "engine",
        "model": Path(model).name,
        "workload": work.name,
        "size": work.size,
        "requests": len(work),
        "dtype": dtype,
        "device": device,
        "max_batch_tokens": scorer.budget,
        "tokens_forwarded": plan.tokens_forwarded,
        "tokens_unshared": plan.tokens_unshared,
        "head_rows": plan.head_rows,
        "pairs": plan.pairs,
        "packs": plan.packs,
        "floor_flops": plan.estimated_flops,
        "matrix_rates": rates,
        "layers_rates": layers,
        "seconds": seconds,
        "fractions_of_floor": fractions,
        "fraction_of_floor": statistics.median(fractions),
        "peak_extra_bytes": extra,
        "environment": environment(device),
    }


def summary(result: dict[str, Any]) -> str:
    """One line for a terminal."""
    seconds = statistics.median(result["seconds"])
    peak = result["peak_extra_bytes"]
    return (
        f"{result['model']} {result['workload']} x {result['size']} {result['dtype']}: {seconds:.2f} s, "
        f"{result['tokens_forwarded'] / seconds:,.0f} tokens/s, {result['packs']} packs, "
        f"{result['fraction_of_floor']:.1%} of the floor "
        f"({result['floor_flops'] / 1e12:.2f} TFLOP at {max(result['matrix_rates']) / 1e12:.2f} TFLOP/s; "
        f"torch's products of the layers alone run at {max(result['layers_rates']) / 1e12:.2f})"
        + (f", {peak / 2**20:,.0f} MiB beyond the weights" if peak is not None else "")
    )


def profile(model: str, work: workloads.Workload, dtype: str, device: str, max_batch_tokens: int | str) -> str:
    """Where one run's time went, by operator."""
    import torch

    scorer = instsel.Scorer(models.make_model(model, dtype, device=device), max_batch_tokens=max_batch_tokens)
    instsel.score_batch(scorer, work.requests[:2])
    with torch.profiler.profile() as trace:
        instsel.score_batch(scorer, work.requests)
    key = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    return str(trace.key_averages().table(sort_by=key, row_limit=25, max_name_column_width=60))


def main() -> None:
    """Measure and print; with `--output` write one JSON file a dtype into that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=models.known, default="smollm2-135m", help="a shape's name, or a folder")
    parser.add_argument("--workload", choices=workloads.NAMES, default="wici-k5")
    parser.add_argument("--size", type=int, help="candidates, groups, demonstrations or questions")
    parser.add_argument("--dtype", nargs="+", choices=("bfloat16", "float32"), default=["bfloat16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--max-batch-tokens", type=int, default=None)
    parser.add_argument("--rate-seconds", type=float, default=1.5, help="time for each measurement of the matrix rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path, help="folder for the result files")
    options = parser.parse_args()
    vocabulary = models.vocabulary(options.model)
    work = workloads.make_workload(options.workload, vocabulary=vocabulary, size=options.size, seed=options.seed)
    budget = options.max_batch_tokens or "auto"
    for dtype in options.dtype:
        if options.profile:
            print(profile(options.model, work, dtype, options.device, budget))
            continue
        result = measure(
            options.model,
            work,
            dtype,
            device=options.device,
            runs=options.runs,
            max_batch_tokens=budget,
            rate_seconds=options.rate_seconds,
        )
        print(summary(result), flush=True)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            name = f"engine_{Path(options.model).name}_{options.workload}_{dtype}_{result['max_batch_tokens']}.json"
            (options.output / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
