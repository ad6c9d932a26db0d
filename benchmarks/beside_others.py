"""Time of `score_batch`, and of the demo, beside processes that keep the processors busy, and within a quota.

    python benchmarks/beside_others.py --dtype bfloat16 --busy 0 1 4 8 --output benchmarks/results/amd-avx512-bf16
    python benchmarks/beside_others.py --demo --busy 0 4
    python benchmarks/beside_others.py --dtype float32 --busy 0 --quota 1

A process with as many threads as processors, beside B others of one thread each, takes its fair share if it takes
(B + P) / P times as long on P processors as it does alone. `--quota` (root only) puts this process into a cgroup of its
own that may use so many processors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import workloads
from environment import environment

import instsel

_PERIOD = 100_000  # microseconds


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Within this block `count` processes of one thread each never wait."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def quota(processors: float) -> Iterator[None]:
    """Within this block this process may use so many processors, by a cgroup of version 1 or 2."""
    old = Path("/sys/fs/cgroup/cpu")
    top = old if old.is_dir() else Path("/sys/fs/cgroup")
    group = top / "instsel-benchmark"
    group.mkdir(exist_ok=True)
    limit = round(processors * _PERIOD)
    if top == old:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(limit))
    else:
        (top / "cgroup.subtree_control").write_text("+cpu")
        (group / "cpu.max").write_text(f"{limit} {_PERIOD}")
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (top / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def scoring(model: str, workload: str, size: int, dtype: str) -> Callable[[], None]:
    """What scores a workload, all statuses ok, once what is done only once has been done."""
    scorer = instsel.Scorer(models.make_model(model, dtype))
    work = workloads.make_workload(workload, vocabulary=models.vocabulary(model), size=size, seed=0)

    def run() -> None:
        assert (instsel.score_batch(scorer, work.requests).status == "ok").all()

    run()
    return run


def demo() -> None:
    """The demo's command, into a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "instsel.cli", "demo", "--quiet", "--output", f"{folder}/demo"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measure(run: Callable[[], None], busy: list[int], runs: int) -> list[dict[str, Any]]:
    """Seconds beside each number of busy processes, and how many times the fair share of the first that is."""
    rows: list[dict[str, Any]] = []
    processors = len(os.sched_getaffinity(0))
    for count in busy:
        seconds = []
        with busy_processes(count):
            for _ in range(runs):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        row: dict[str, Any] = {"busy": count, "seconds": seconds}
        if busy[0] == 0:
            alone = (rows or [row])[0]
            slower = statistics.median(seconds) / statistics.median(alone["seconds"])
            row |= {"times_alone": slower, "times_fair_share": slower * processors / (count + processors)}
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print; with `--output` write one JSON file into that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models.NAMES, default="smollm2-135m")
    parser.add_argument("--workload", choices=workloads.NAMES, default="wici-k5")
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--demo", action="store_true", help="the demo instead of score_batch")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 4, 8], help="processes beside")
    parser.add_argument("--quota", type=float, help="processors that this process may use")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for the result file")
    options = parser.parse_args()
    with contextlib.nullcontext() if options.quota is None else quota(options.quota):
        if options.demo:
            what, run = "demo", demo
        else:
            what = f"{options.model}_{options.workload}_{options.dtype}"
            run = scoring(options.model, options.workload, options.size, options.dtype)
        rows = measure(run, options.busy, options.runs)
    within = "" if options.quota is None else f"_quota_{options.quota:g}"
    for row in rows:
        share = f", {row['times_fair_share']:.2f} of the fair share" if "times_fair_share" in row else ""
        print(f"{what}{within} beside {row['busy']}: {statistics.median(row['seconds']):.2f} s{share}", flush=True)
    if options.output:
        result = {"benchmark": "beside_others", "what": what, "size": options.size, "quota": options.quota}
        result |= {"rows": rows, "environment": environment("cpu")}
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / f"beside_others_{what}{within}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
