"""Everything that a GPU computes here against float64 and against one sequence at a time; a step of `gpu_run`.

Of each check the largest error and what it may be, which is what the plain way in the same dtype has, twice, and a
rounding of the result. With device "cpu" the CPU's kernels are checked in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import models
import numpy as np
import torch
import workloads
from agreement import Reference
from torch import Tensor

import instsel
from instsel.kernels import (
    TreeNodes,
    TreeSegments,
    linear_logprob,
    row_logprob,
    tree_attention,
    tree_convolution,
    tree_delta_rule,
    tree_scan,
)

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TINY = ("head torch.float32 fused=logits softcap=30.0", "attention torch.float32 head 80 window=50")
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


def sums(device: str) -> tuple[float, float]:
    """Sums of sequences of unmasked pairs, many of one row, against float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 5003, generator=generator)
    rows, targets = torch.arange(900) % 5, torch.randint(0, 5003, (900,), generator=generator)
    mask, offsets = torch.rand(900, generator=generator) < 0.7, torch.tensor([0, 3, 3, 500, 900])
    given = [one.to(device) for one in (logits, rows, targets)]
    got = row_logprob(*given, mask=mask.to(device), offsets=offsets.to(device)).sum
    assert got is not None
    values = torch.where(mask, torch.log_softmax(logits.double(), -1)[rows, targets], 0.0)
    exact = torch.stack([part.sum() for part in values.tensor_split(offsets[1:-1])])
    return float((got.cpu() - exact).abs().max()), 1e-6 * 500


def unseen(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """An infinite value in one branch: what a sibling has may not change beyond the dtype's rounding."""
    segments = TreeSegments.from_lists([0, 40, 70, 90], [[], [(0, 40)], [(0, 40)]])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(90, heads, 64, generator=generator).to(device, dtype) for heads in (4, 2, 2))
    before = tree_attention(query, key, value, segments)
    value[50, 0, 3] = float("inf")
    after = tree_attention(query, key, value, segments)
    rows = [*range(50), *range(70, 90)]
    error = float((after[rows].double() - before[rows].double()).abs().nan_to_num(float("inf")).max())
    return error, 4 * torch.finfo(dtype).eps


def recurrence(device: str, dtype: torch.dtype, name: str) -> tuple[float, float]:
    """A convolution, delta rule or scan along a tree against the reference in float64, over its largest number."""
    nodes = TreeNodes.from_lists([0, 90, 91, 140, 140, 205], [-1, 0, 0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(205, 4, 64, generator=generator).to(dtype) for _ in range(3)]
    steps = [torch.rand(205, 4, generator=generator) for _ in range(2)]

    def run(place: str, of: torch.dtype, steps_of: torch.dtype, backend: str) -> Tensor:
        x, y, z = (one.to(place, of) for one in given)
        a, b = (one.to(place, steps_of) for one in steps)
        if name == "convolution":
            weight = y[:64, :, 0].contiguous()
            return tree_convolution(x[:, 0].contiguous(), weight, nodes, activation="silu", backend=backend)[0]
        if name == "delta rule":
            return tree_delta_rule(x, y, z, -a, b, nodes, normalize=True, backend=backend)[0]
        return tree_scan(x, a, -a[0], y, z, nodes, backend=backend)[0]

    exact = run("cpu", torch.float64, torch.float64, "reference")
    got = run(device, dtype, torch.float32, "auto").cpu().double()
    return float((got - exact).abs().max() / exact.abs().max()), 3e-5 + 4 * torch.finfo(dtype).eps


def engine(device: str, dtype: str, model: str, workload: str) -> tuple[float, float]:
    """`score_batch` against float64, one sequence at a time; and the same call again has to give the same bits."""
    work = workloads.make_workload(workload, vocabulary=models.vocabulary(model), size=2, branching=3)
    reference = Reference(model, dtype, device, work, requests=12)
    scorer = instsel.Scorer(models.make_model(model, dtype, device=device), max_batch_tokens=700)
    scores, again = (instsel.score_batch(scorer, work.requests).mean_logprob for _ in range(2))
    if not np.array_equal(scores, again):
        raise ValueError("the same call gave other bits")
    check_sharing(scorer, work)
    error = float(np.sqrt(np.mean(np.square(scores[reference.rows] - reference.scores))))
    return error, 2 * reference.plain_error + 1e-6


def check_sharing(scorer: instsel.Scorer, work: workloads.Workload) -> None:
    """ValueError unless each distinct prefix that predicts something went through the model once, by plain counting.

    Right scores alone do not show it: a model whose prefixes are not shared has them too.
    """
    distinct = {tuple((c + a)[:n]) for c, a in work.requests for n in range(1, len(c) + len(a))}
    forwarded = instsel.score_batch(scorer, work.requests).stats.tokens_forwarded
    if forwarded != len(distinct):
        raise ValueError(f"prefixes are not shared: {forwarded} tokens were forwarded, {len(distinct)} are distinct")


def results(found: Iterable[tuple[str, Check]]) -> dict[str, Callable[[], dict[str, Any]]]:
    """Checks as calls of a step of `gpu_run`."""

    def result(check: Check) -> dict[str, Any]:
        error, may_be = check()
        return {"ok": bool(error <= may_be), "error": error, "may_be": may_be}

    return {name: partial(result, check) for name, check in found}


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """The kernels' checks; models have a step of their own, `gpu_models`."""
    return results((name, check) for name, check in checks(device) if not tiny or name in TINY)


def checks(device: str) -> Iterator[tuple[str, Check]]:
    """All of the kernels, by name."""
    kinds = ("auto", "logits") if device == "cpu" else (True, False, "logits")
    for dtype, fused, softcap in itertools.product(DTYPES, kinds, (None, 30.0)):
        yield f"head {dtype} fused={fused} softcap={softcap}", partial(head, device, dtype, fused, softcap)
    for dtype, size, window in itertools.product(DTYPES, (64, 80, 128, 256), (None, 50)):
        yield f"attention {dtype} head {size} window={window}", partial(attention, device, dtype, size, window)
    yield "sums of sequences", partial(sums, device)
    for dtype in DTYPES:
        yield f"unseen values {dtype}", partial(unseen, device, dtype)
        for name in ("convolution", "delta rule", "scan"):
            yield f"{name} {dtype}", partial(recurrence, device, dtype, name)


def model_checks(device: str, sizes: tuple[str, ...]) -> Iterator[tuple[str, Check]]:
    """Whole models against one sequence at a time in float64."""
    for model, kind, work in itertools.product(sizes, ("bfloat16", "float32"), ("wici-k5", "few-shot-4")):
        yield f"engine {model} {kind} {work}", partial(engine, device, kind, model, work)
