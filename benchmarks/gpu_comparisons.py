"""Other ways of scoring beside the engine on a GPU, and the kernels' longer sweep: the second call of `gpu_run`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import compare
import models
import workloads
from agreement import Reference
from contestants import Contestant

# Model, workload, its size, the other way and the package that it needs.
COMPARED = (
    ("llama-3.1-8b", "wici-k5", 48, "one_by_one_lean", None),
    ("llama-3.1-8b", "wici-k5", 48, "lm_eval", "lm_eval"),
    ("llama-3.1-8b", "wici-k5", 48, "vllm", "vllm"),
    ("llama-3.1-8b", "wici-k5", 48, "sglang", "sglang"),
    ("llama-3.1-8b", "wici-k5", 48, "dynamic_cache", None),
    ("qwen3-0.6b", "wici-k5", 128, "one_by_one_lean", None),
    ("qwen3-0.6b", "few-shot-4", 100, "lm_eval", "lm_eval"),
    ("qwen3-0.6b", "anchors-100", 16, "one_by_one_lean", None),
    ("qwen3-0.6b", "wici-k5", 128, "flex", None),
)
TINY = (
    ("tiny", "wici-k5", 2, "one_by_one_lean", None),
    ("tiny", "wici-k5", 2, "lm_eval", "no_such_package"),
    ("tiny", "wici-k5", 2, "vllm", "vllm"),
    ("tiny", "wici-k5", 2, "sglang", "sglang"),
)


def compared(
    device: str, model: str, workload: str, size: int, against: str, package: str | None, seconds: float
) -> dict[str, Any]:
    """One comparison, with the scores of both checked; left out where its package is not installed."""
    if package is not None and importlib.util.find_spec(package) is None:
        return {"ok": True, "left_out": f"{package} is not installed"}
    work = workloads.make_workload(workload, vocabulary=models.vocabulary(model), size=size)
    references = {"bfloat16": Reference(model, "bfloat16", device, work)}
    ours = Contestant("instsel_engine", model, "bfloat16", device, work, threads=None)
    try:
        found = compare.compare(ours, references, against, against_dtype="bfloat16", pairs=2, seconds=seconds)
    finally:
        ours.close()
    return {"ok": True, "result": compare.summarise(found)}


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Those of the large model first."""
    return {
        f"{model} {workload} against {against}": partial(
            compared, device, model, workload, size, against, package, 0.1 if tiny else 30.0
        )
        for model, workload, size, against, package in (TINY if tiny else COMPARED)
    }
