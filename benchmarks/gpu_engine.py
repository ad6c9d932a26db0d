"""The engine on a GPU: time of whole calls, and where it goes by kind of kernel, with launches a pack."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import engine
import models
import torch
import workloads

import instsel

# What a kernel does, by its name; the first that fits.
KINDS = {
    "attention": r"tree_attention|flash|fmha|unseen_values|varlen",
    "head": r"linear_states|join_states|pairs_from|row_states|sequence_sums",
    "recurrence": r"tree_recurrence|tree_convolution",
    "products": r"gemm|cutlass|nvjet|xmma|cublas|aten::mm|aten::addmm|mkldnn",
    "copies": r"memcpy|memset|copy_",
}


def kind_of(name: str) -> str:
    """The kind of a kernel; elementwise work of the layers where no name is known."""
    return next((kind for kind, names in KINDS.items() if re.search(names, name, re.IGNORECASE)), "elementwise")


def profile(device: str, model: str, size: int) -> dict[str, Any]:
    """Milliseconds and launches a pack by kind of kernel, and the 40 kernels that take longest."""
    work = workloads.make_workload("wici-k5", vocabulary=models.vocabulary(model), size=size)
    scorer = instsel.Scorer(models.make_model(model, "bfloat16", device=device))
    instsel.score_batch(scorer, work.requests)
    with torch.profiler.profile() as trace:
        batch = instsel.score_batch(scorer, work.requests)
    on_gpu = torch.device(device).type == "cuda"
    time_of = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [row for row in trace.key_averages() if "cuda" in str(row.device_type).lower() or not on_gpu]
    milliseconds: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for row in rows:
        milliseconds[kind_of(row.key)] += getattr(row, time_of) / 1000
        launches[kind_of(row.key)] += row.count
    rows.sort(key=lambda row: -getattr(row, time_of))
    packs = batch.stats.packs
    return {
        "ok": True,
        "packs": packs,
        "seconds_of_call": batch.stats.seconds,
        "milliseconds_a_pack": {kind: found / packs for kind, found in milliseconds.items()},
        "launches_a_pack": {kind: found / packs for kind, found in launches.items()},
        "kernels": [[row.key[:120], row.count, getattr(row, time_of)] for row in rows[:40]],
    }


def timed(device: str, model: str, name: str, size: int, runs: int, rate_seconds: float) -> dict[str, Any]:
    """`engine.measure` in bfloat16."""
    work = workloads.make_workload(name, vocabulary=models.vocabulary(model), size=size)
    found = engine.measure(model, work, "bfloat16", device=device, runs=runs, rate_seconds=rate_seconds)
    return {"ok": True, "result": found}


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Both shapes, the large one first."""
    shapes = (("tiny", 2),) if tiny else (("llama-3.1-8b", 64), ("qwen3-0.6b", 256))
    named: dict[str, Callable[[], dict[str, Any]]] = {}
    for kind, (model, size) in itertools.product(("time", "profile"), shapes):
        if kind == "time":
            run = partial(timed, device, model, "wici-k5", size, 1 if tiny else 3, 0.01 if tiny else 1.0)
        else:
            run = partial(profile, device, model, size)
        named[f"{kind} {model}"] = run
    return named
