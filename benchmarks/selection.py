"""What selecting costs: time and peak memory of each rule of `instsel.select`, each in a process of its own.

    python benchmarks/selection.py [--rows 200000] [--dimension 384] [--rules NAME ...] [--output FILE.json]

Embeddings are drawn around one centre in fifty rows, scores at random; a tenth of the rows is selected. Memory is what
the process holds at its highest beyond what it held with the embeddings drawn. Rules that are not named keep their
figures in FILE.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

RULES: dict[str, dict[str, Any]] = {
    "score alone": {"embeddings": None},
    "cosine 0.9": {},
    "k-means, 24 clusters": {},
    "proportional, 24 clusters": {"coverage": "proportional"},
    "equal, 24 clusters": {"coverage": "equal"},
    "proportional, 24 clusters, cosine 0.9 inside": {"coverage": "proportional", "max_similarity": 0.9},
    "proportional, labels given": {"coverage": "proportional", "clusters": "labels", "embeddings": None},
    "tokens, score alone": {"budget_tokens": True, "embeddings": None},
    "tokens, proportional, labels given": {
        "coverage": "proportional",
        "clusters": "labels",
        "budget_tokens": True,
        "embeddings": None,
    },
    "facility location, 32 neighbours": {"coverage": "facility-location"},
}


def drawn(rows: int, dimension: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A pool: embeddings around centres, scores, lengths and 24 labels."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, rows // 50), dimension)).astype(np.float32)
    embeddings = centres[rng.integers(0, len(centres), rows)]
    for start in range(0, rows, 10_000):
        part = embeddings[start : start + 10_000]
        part += 0.7 * rng.normal(size=part.shape).astype(np.float32)
    tokens = rng.integers(20, 800, rows)
    return {"embeddings": embeddings, "score": rng.random(rows), "labels": rng.integers(0, 24, rows), "tokens": tokens}


def measure(rule: str, rows: int, dimension: int) -> dict[str, Any]:
    """Time one rule once, after a call on a small pool."""
    import torch

    from instsel.neighbors.clusters import cluster_rows
    from instsel.selection import select

    def call(pool: dict[str, np.ndarray]) -> int:
        if rule.startswith("k-means"):
            return len(cluster_rows(pool["embeddings"]).centres)
        options = {"embeddings": pool["embeddings"], **RULES[rule]}
        if options.get("clusters"):
            options["clusters"] = pool["labels"]
        if options.get("budget_tokens"):
            options["budget_tokens"], options["num_tokens"] = int(pool["tokens"].sum() // 10), pool["tokens"]
            return len(select(pool["score"], **options))
        return len(select(pool["score"], 0.1, **options))

    torch.zeros((256, 256)) @ torch.zeros((256, 256))
    call(drawn(1000, dimension))
    pool = drawn(rows, dimension)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    found = call(pool)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": round(seconds, 3),
        "peak_mib_beyond_embeddings": (peak - before) >> 10,
        "clusters" if rule.startswith("k-means") else "selected": found,
    }


def main() -> None:
    """Measure the rules asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES), metavar="NAME")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", choices=RULES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.rows, given.dimension)))
        return
    result: dict[str, Any] = {"rows": given.rows, "dimension": given.dimension, "budget": 0.1, "rules": {}}
    if given.output and given.output.exists():
        result["rules"] = json.loads(given.output.read_text())["rules"]
    for rule in given.rules:
        size = ["--rows", str(given.rows), "--dimension", str(given.dimension)]
        done = subprocess.run(
            [sys.executable, __file__, "--one", rule, *size], capture_output=True, text=True, check=True
        )
        result["rules"][rule] = {**json.loads(done.stdout), "environment": environment()}
        print(rule, done.stdout.strip(), flush=True)
        if given.output:
            given.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
