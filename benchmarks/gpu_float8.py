"""Layer products in float8 beside bfloat16 on a GPU: speed, scores and ranks; a step of `gpu_run`.

Of scores, and of gains (by how much a demonstration raises its probes' mean log-probability), the largest and the
median move in nats a token, the most ranks that one moves, the rank correlation, and how many of the highest tenth stay
there; for float8 against bfloat16, and for each of them against itself in packs of 2,048 tokens.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import drift
import models
import numpy as np
import torch
import workloads

import instsel
from instsel.kernels.float8_products import Float8Product, Float8Rows, float8_refusal

SMALL_PACKS = 2048
TOKENS = 16_384
Pairs = list[list[tuple[int, int]]]  # of each demonstration: a probe's request after its prompt alone, and after it


def milliseconds(call: Callable[[], Any], device: str, runs: int) -> float:
    """Median over runs, the first left out."""

    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    found = []
    for _ in range(runs + 1):
        wait()
        began = time.perf_counter()
        call()
        wait()
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found[1:])


@torch.inference_mode()
def products(device: str, hidden: int, inner: int, tokens: int, runs: int) -> dict[str, Any]:
    """Milliseconds of a layer's products of each shape: bfloat16, float8 of rounded rows, and rounding these."""
    found: dict[str, Any] = {}
    for outputs, inputs in ((hidden, hidden), (inner, hidden), (hidden, inner)):
        x = torch.randn(tokens, inputs, device=device).bfloat16()
        weight = torch.randn(outputs, inputs, device=device).bfloat16()
        product, rows = Float8Product.of(weight), Float8Rows.of(x)
        exact = x[:64].double() @ weight.double().T
        off = float((product.rows(x)[:64].double() - exact).norm() / exact.norm())
        times = {
            "bfloat16": milliseconds(lambda x=x, w=weight: torch.nn.functional.linear(x, w), device, runs),
            "float8": milliseconds(lambda p=product, r=rows: p.of_float8(r), device, runs),
            "rounding": milliseconds(lambda x=x: Float8Rows.of(x), device, runs),
        }
        flop = 2e-9 * tokens * inputs * outputs
        rates = {f"{name}_tflop_per_s": flop / times[name] for name in ("bfloat16", "float8")}
        found[f"{tokens}x{inputs}x{outputs}"] = {"milliseconds": times, **rates, "relative_error": off}
    right = all(0.01 < one["relative_error"] < 0.08 for one in found.values())
    return {"ok": right, "wrong": None if right else "errors that are none of 4 significant bits", "products": found}


def moved(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far two lists of the same scores are apart, by their numbers and by their ranks."""
    ranks = [np.argsort(np.argsort(-scores, kind="stable"), kind="stable") for scores in (one, other)]
    tenth = max(len(one) // 10, 1)
    return {
        "largest": float(np.abs(one - other).max()),
        "median": float(np.median(np.abs(one - other))),
        "largest_rank_change": int(np.abs(ranks[0] - ranks[1]).max()),
        "rank_correlation": float(np.corrcoef(*ranks)[0, 1]),
        "highest_tenth_kept": float(((ranks[0] < tenth) & (ranks[1] < tenth)).sum() / tenth),
        "spread": float(one.std()),
    }


def gains(scores: np.ndarray, pairs: Pairs) -> np.ndarray:
    """By how much each demonstration raises the mean log-probability of its probes' answers."""
    return np.array([np.mean([scores[after] - scores[alone] for alone, after in probes]) for probes in pairs])


def requests_of(model: str, size: int) -> tuple[drift.Requests, Pairs]:
    """wICI's requests: of the demo's pool as text for the demo's model, of random tokens for others."""
    if model == drift.DEMO:
        n, k = size, drift.PROBES
        pairs = [[(n + (i + 1 + j) % n, 2 * n + i * k + j) for j in range(k)] for i in range(n)]
        return drift.demo_requests(size), pairs
    work = workloads.make_workload(f"wici-k{drift.PROBES}", vocabulary=models.vocabulary(model), size=size)
    first = [size + row * (1 + drift.PROBES) for row in range(size)]  # each before its one-shot requests
    return work.requests, [[(first[row], after) for row, after in probes] for probes in work.influences]


def compared(device: str, model: str, size: int, runs: int) -> dict[str, Any]:
    """Calls in bfloat16 and in float8 in turns, and how far their scores are apart."""
    if reason := float8_refusal(torch.device(device), torch.bfloat16):
        return {"ok": True, "left_out": reason}
    requests, pairs = requests_of(model, size)
    loaded: Any = drift.DEMO_MODEL if model == drift.DEMO else models.make_model(model, "bfloat16", device=device)
    scorers, scores, seconds, company = {}, {}, {}, {}
    for name in ("auto", "float8"):
        scorers[name] = instsel.Scorer(loaded, device=device, dtype="bfloat16", layer_products=name)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scores[name] = instsel.score_batch(scorers[name], requests).mean_logprob
        seconds[name] = []
        scorers[name].max_batch_tokens = SMALL_PACKS
        small = instsel.score_batch(scorers[name], requests).mean_logprob
        scorers[name].max_batch_tokens = "auto"
        both = [gains(one, pairs) for one in (scores[name], small)]
        company[name] = {"scores": moved(scores[name], small), "gains": moved(*both)}
    for _ in range(runs):
        for name, scorer in scorers.items():
            again = instsel.score_batch(scorer, requests)
            seconds[name].append(again.stats.seconds)
            if not np.array_equal(again.mean_logprob, scores[name]):
                raise ValueError(f"{name}: the same call gave other bits")
    found = scorers["float8"].model.float8
    assert found is not None
    ratio = statistics.median(a / b for a, b in zip(seconds["auto"], seconds["float8"], strict=True))
    return {
        "ok": True,
        "requests": len(requests),
        "said": [str(one.message) for one in said],
        "products": len(found.places),
        "drift": {"mean": found.drift, "largest_row": found.largest_row},
        "seconds": seconds,
        "times_as_fast": ratio,
        "scores": moved(scores["auto"], scores["float8"]),
        "gains": moved(*(gains(scores[name], pairs) for name in ("auto", "float8"))),
        "company": company,
    }


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Products first, then the large shape, a small one, and the demo's trained model."""
    sizes = (64, 128, 32) if tiny else (4096, 14_336, TOKENS)
    named = {"products": partial(products, device, *sizes, 2 if tiny else 20)}
    small, large = (("tiny", 8), (drift.DEMO, 8)), (("llama-3.1-8b", 48), ("qwen3-0.6b", 128), (drift.DEMO, 400))
    for model, size in small if tiny else large:
        named[f"{model} wici-k5"] = partial(compared, device, model, size, 1 if tiny else 3)
    return named
