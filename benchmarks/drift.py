"""How far a score moves with the company it is computed in: the same requests in packs of different composition.

    python benchmarks/drift.py --output benchmarks/results

The requests are those of wICI: answers alone, after their prompts, and after five demonstrations each, about 120 in
all. They are scored in packs of 256, 2,048 and 8,192 tokens, in another order, and one at a time. A score's drift is
the largest difference between any two of these, in nats a token; its rank change the same of its rank among them all.
Beside it stands by how much the dtype itself, one request at a time, differs from float32.

The models are one of SmolLM2-135M's shape with random weights, its requests random tokens a quarter as long as
Alpaca's, and the demo's own model on the demo's own pool. Nothing is downloaded.

The result file is written after every measurement; a later call with the same arguments adds what is not there yet.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
import workloads
from environment import environment

import instsel
from instsel.demo.generator import make_pool
from instsel.kernels import BACKENDS
from instsel.kernels.backends import choose_backend
from instsel.prompts import prompt_and_answer
from instsel.records import to_examples

BUDGETS = (256, 2048, 8192)
DTYPES = ("float32", "bfloat16", "float16")
DEMO = "demo"
DEMO_MODEL = Path(instsel.__file__).parent / "demo" / "model"
CANDIDATES, PROBES = 17, 5
SHORTEN = 4

Requests = Sequence[tuple[Any, Any]]


def demo_requests(candidates: int = CANDIDATES, seed: int = 0) -> Requests:
    """wICI's requests for the first candidates of the demo's pool; each one's probes are those that follow it."""
    examples = to_examples(make_pool(seed, max(candidates, 50))[:candidates])
    conditional = [prompt_and_answer("plain", example) for example in examples]
    pairs = [(a, examples[(i + 1 + k) % candidates]) for i, a in enumerate(examples) for k in range(PROBES)]
    one_shot = [prompt_and_answer("plain", probe, demonstration=shown) for shown, probe in pairs]
    return [("", answer) for _, answer in conditional] + conditional + one_shot


def demo_weights() -> str:
    """The SHA-256 of the demo model's weights: with others its results are out of date."""
    return hashlib.sha256((DEMO_MODEL / "model.safetensors").read_bytes()).hexdigest()


def make_requests(model: str, candidates: int = CANDIDATES, seed: int = 0) -> Requests:
    """The requests for a model by name."""
    if model == DEMO:
        return demo_requests(candidates, seed)
    vocabulary = models.vocabulary(model)
    name = f"wici-k{PROBES}"
    return workloads.make_workload(name, vocabulary=vocabulary, size=candidates, shorten=SHORTEN, seed=seed).requests


def make_scorer(model: str, dtype: str, backend: str, device: str) -> instsel.Scorer:
    """A model by name, ready to score; its weights are the same numbers, of bfloat16, in every dtype."""
    if model == DEMO:
        return instsel.Scorer(DEMO_MODEL, dtype=dtype, backend=backend, device=device)
    return instsel.Scorer(models.make_model(model, dtype, device=device), dtype=dtype, backend=backend)


def score_in_company(scorer: instsel.Scorer, requests: Requests, *, seed: int = 0) -> tuple[dict[str, Any], bool]:
    """For each composition its mean log-probabilities and its packs; and whether the same call gave the same bits."""

    def scored(budget: int, chosen: Requests) -> tuple[np.ndarray, int]:
        scorer.max_batch_tokens = budget
        batch = instsel.score_batch(scorer, chosen)
        if not (batch.status == "ok").all():
            raise ValueError(f"requests: expected all of them to be scored, got {sorted(set(batch.status))}")
        return batch.mean_logprob, batch.stats.packs

    found = {f"packs of {budget} tokens": scored(budget, requests) for budget in BUDGETS}
    usual = found[f"packs of {BUDGETS[1]} tokens"]
    same = np.array_equal(scored(BUDGETS[1], requests)[0].view(np.int64), usual[0].view(np.int64))
    order = np.random.default_rng(seed).permutation(len(requests))
    means, packs = scored(BUDGETS[1], [requests[i] for i in order])
    found["another order"] = means[np.argsort(order)], packs
    alone = [scored(BUDGETS[1], [request]) for request in requests]
    found["one at a time"] = np.concatenate([means for means, _ in alone]), sum(packs for _, packs in alone)
    return found, same


@functools.cache
def float32_scores(model: str, device: str, candidates: int, seed: int) -> np.ndarray:
    """The same requests' mean log-probabilities in float32 by the plain PyTorch code, in large packs."""
    scorer = make_scorer(model, "float32", "reference", device)
    scorer.max_batch_tokens = BUDGETS[-1]
    return instsel.score_batch(scorer, make_requests(model, candidates, seed)).mean_logprob


def drift(found: dict[str, tuple[np.ndarray, int]], float32: np.ndarray) -> dict[str, Any]:
    """Largest and median difference between compositions, nats a token, and the largest change of a request's rank."""
    scores = np.array([means for means, _ in found.values()])
    moved = scores.max(0) - scores.min(0)
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable")
    alone = found["one at a time"][0]
    return {
        "largest": float(moved.max()),
        "median": float(np.median(moved)),
        "largest_rank_change": int((ranks.max(0) - ranks.min(0)).max()),
        "largest_from_one_at_a_time": {name: float(np.abs(means - alone).max()) for name, (means, _) in found.items()},
        "largest_from_float32": float(np.abs(alone - float32).max()),
        "median_from_float32": float(np.median(np.abs(alone - float32))),
        "packs": {name: packs for name, (_, packs) in found.items()},
        "score_spread": float(alone.std()),
    }


def measure(
    model: str, dtype: str, backend: str, *, device: str = "cpu", candidates: int = CANDIDATES, seed: int = 0
) -> dict[str, Any]:
    """One result; where the backend or the dtype cannot run on the device, `refused` says why in its stead."""
    cell: dict[str, Any] = {"model": model, "dtype": dtype, "backend": backend, "device": device}
    try:
        choose_backend(backend, torch.device(device))
    except ValueError as error:
        return {**cell, "refused": str(error)}
    requests = make_requests(model, candidates, seed)
    found, same = score_in_company(make_scorer(model, dtype, backend, device), requests, seed=seed)
    float32 = float32_scores(model, device, candidates, seed)
    taken = {"weights_sha256": demo_weights()} if model == DEMO else {}
    return {**cell, "requests": len(requests), **drift(found, float32), "same_call_same_bits": same, **taken}


def line(cell: dict[str, Any]) -> str:
    """One line for a terminal."""
    name = f"{cell['model']} {cell['dtype']} {cell['backend']} on {cell['device']}"
    if "refused" in cell:
        return f"{name}: refused: {cell['refused']}"
    return (
        f"{name}: {cell['requests']} requests, largest {cell['largest']:.1e}, median {cell['median']:.1e} nats a token "
        f"(float32: {cell['largest_from_float32']:.1e} away), ranks by {cell['largest_rank_change']}, "
        "the same call twice gave "
        f"{'the same bits' if cell['same_call_same_bits'] else 'OTHER BITS'}"
    )


def main() -> None:
    """Measure and print; with `--output` write `drift_DEVICE.json` into that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=(*models.NAMES, DEMO), default=["smollm2-135m", DEMO])
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help=f"each makes {2 + PROBES} requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="measure anew what the result file has")
    parser.add_argument("--output", type=Path, help="folder for the result file")
    options = parser.parse_args()
    if options.candidates <= PROBES:
        parser.error(f"--candidates must be more than {PROBES}, the number of probes, got {options.candidates}")
    warnings.simplefilter("ignore")
    taken = environment(options.device)  # of the code as it is now loaded
    path = options.output and options.output / f"drift_{options.device.replace(':', '')}.json"
    limits = {"device": options.device, "candidates": options.candidates, "seed": options.seed}
    settings = {**limits, "budgets": list(BUDGETS)}
    before = json.loads(path.read_text()) if path and path.exists() and not options.again else {}
    cells = before["results"] if before and all(before[key] == value for key, value in settings.items()) else []
    cells = [cell for cell in cells if cell.get("weights_sha256", demo_weights()) == demo_weights()]
    have = {(cell["model"], cell["dtype"], cell["backend"]) for cell in cells}
    wanted = [(m, d, b) for m in options.model for d in options.dtype for b in options.backend]
    for model, dtype, backend in wanted:
        if (model, dtype, backend) in have:
            continue
        cells.append({**measure(model, dtype, backend, **limits), "environment": taken})
        print(line(cells[-1]), flush=True)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            result = {"benchmark": "drift", **settings, "environment": taken, "results": cells}
            path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
