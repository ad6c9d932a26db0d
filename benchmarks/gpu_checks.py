"""Everything that a GPU computes here against float64 and against one sequence at a time, before anything is timed.

    python benchmarks/gpu_checks.py [--device cuda] [--output FILE]

A line a check: the largest error and what it may be, which is what the plain way in the same dtype has, twice, and a
rounding of the result. Ends with status 1 where one fails. `--device cpu` checks the CPU's kernels in the same way.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
import workloads
from agreement import Reference
from environment import environment
from torch import Tensor

import instsel
from instsel.kernels import TreeSegments, linear_logprob, row_logprob, tree_attention

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
Check = Callable[[], tuple[float, float]]  # the error, and what it may be


def within(got: Tensor, exact: Tensor, plain: Tensor) -> tuple[float, float]:
    """Largest errors of what was got and of the plain way, twice and a rounding of the largest number."""
    errors = [float((x.double() - exact).abs().max()) for x in (got, plain)]
    return errors[0], 2 * errors[1] + float(exact.abs().max()) * 2e-6


def head(device: str, dtype: torch.dtype, fused: bool | str, softcap: float | None) -> tuple[float, float]:
    """`linear_logprob` (or `row_logprob` where the logits are there) of a head with a ragged vocabulary."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 576, generator=generator).to(dtype).to(device)
    weight = (torch.randn(49_157, 576, generator=generator) * 0.05).to(dtype).to(device)
    rows = torch.arange(300, device=device).repeat(2)
    targets = torch.randint(0, len(weight), (600,), generator=generator).to(device)

    def of(logits: Tensor) -> Tensor:
        capped = logits if softcap is None else softcap * torch.tanh(logits / softcap)
        return torch.log_softmax(capped, -1)[rows, targets]

    exact, plain = of(hidden.double() @ weight.double().T), of(hidden.float() @ weight.float().T)
    if fused == "logits":
        logits = hidden.float() @ weight.float().T
        return within(row_logprob(logits, rows, targets, softcap=softcap).logprob, exact, plain)
    return within(linear_logprob(hidden, weight, rows, targets, softcap=softcap, fused=fused).logprob, exact, plain)


def attention(device: str, dtype: torch.dtype, head_size: int, window: int | None) -> tuple[float, float]:
    """A tree of a long prefix, branches and twigs, with cached keys, against the reference in float32."""
    lengths, parents = (257, 40, 3, 61, 1, 90), (-1, 0, 1, 0, 3, 0)
    begin = np.concatenate([[0], np.cumsum(lengths)])
    cached = 33
    contexts: list[list[tuple[int, int]]] = []
    for parent in parents:
        own = [] if parent < 0 else [(cached + int(begin[parent]), cached + int(begin[parent + 1]))]
        contexts.append([*(contexts[parent] if parent >= 0 else [(0, cached)]), *own])
    segments = TreeSegments.from_lists(begin.tolist(), contexts)
    generator = torch.Generator().manual_seed(0)
    total = int(begin[-1])
    query = torch.randn(total, 6, head_size, generator=generator).to(dtype).to(device)
    key, value = (torch.randn(total + cached, 2, head_size, generator=generator).to(dtype).to(device) for _ in "kv")
    exact = tree_attention(query.float(), key.float(), value.float(), segments, window=window, backend="reference")
    plain = tree_attention(query, key, value, segments, window=window, backend="reference")
    return within(tree_attention(query, key, value, segments, window=window), exact.double(), plain)


def engine(device: str, dtype: str, model: str, workload: str) -> tuple[float, float]:
    """`score_batch` against float64, one sequence at a time; and the same call again has to give the same bits."""
    work = workloads.make_workload(workload, vocabulary=models.vocabulary(model), size=2, branching=3)
    reference = Reference(model, dtype, device, work, requests=12)
    scorer = instsel.Scorer(models.make_model(model, dtype, device=device), max_batch_tokens=700)
    scores, again = (instsel.score_batch(scorer, work.requests).mean_logprob for _ in range(2))
    if not np.array_equal(scores, again):
        raise ValueError("the same call gave other bits")
    error = float(np.sqrt(np.mean(np.square(scores[reference.rows] - reference.scores))))
    return error, 2 * reference.plain_error + 1e-6


def checks(device: str, sizes: tuple[str, ...]) -> Iterator[tuple[str, Check]]:
    """All of them, by name."""
    kinds = ("auto", "logits") if device == "cpu" else (True, False, "logits")
    for dtype, fused, softcap in itertools.product(DTYPES, kinds, (None, 30.0)):
        yield f"head {dtype} fused={fused} softcap={softcap}", partial(head, device, dtype, fused, softcap)
    for dtype, size, window in itertools.product(DTYPES, (64, 80, 128, 256), (None, 50)):
        yield f"attention {dtype} head {size} window={window}", partial(attention, device, dtype, size, window)
    for model, dtype, work in itertools.product(sizes, ("bfloat16", "float32"), ("wici-k5", "few-shot-4")):
        yield f"engine {model} {dtype} {work}", partial(engine, device, dtype, model, work)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each check; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="*", choices=models.NAMES, default=["tiny", "qwen3-0.6b"])
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    for name, check in checks(options.device, tuple(options.models)):
        line: dict[str, Any] = {"check": name}
        try:
            line["error"], line["may_be"] = check()
            line["ok"] = line["error"] <= line["may_be"]
        except Exception:  # the others are to be seen too
            line |= {"ok": False, "traceback": traceback.format_exc(limit=-4)}
        found.append(line)
        figures = f"{line['error']:.1e} of {line['may_be']:.1e}" if "error" in line else line["traceback"]
        print("ok    " if line["ok"] else "FAILED", name, figures, flush=True)
        if options.output:
            result = {"benchmark": "gpu_checks", "environment": environment(options.device), "checks": found}
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(not all(line["ok"] for line in found))


if __name__ == "__main__":
    sys.exit(main())
