"""Time and tokens of `score_batch` against candidates, probes, prefix length and suffix length.

    python benchmarks/scaling.py --model smollm2-135m --dtype bfloat16 --output benchmarks/results

Each axis is varied with the others fixed. Every point is one demonstration of `prefix` tokens a candidate, followed by
`probes` suffixes of `suffix` tokens, all scored: the tree has `candidates * (prefix + probes * suffix)` tokens, less
the last token of each leaf. The plot shows measured seconds beside a line of the tree's tokens, scaled to go through
the largest point: where time follows the tree, points lie on the line.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import models
import numpy as np
from environment import environment

import instsel

FIXED = {"candidates": 4, "probes": 5, "prefix": 196, "suffix": 196}
AXES = {
    "candidates": (2, 4, 8, 16),
    "probes": (1, 2, 5, 10, 20),
    "prefix": (64, 256, 1024, 2048),
    "suffix": (16, 64, 256, 512),
}
TRIED = {name: values[:2] for name, values in AXES.items()}


def requests_of(
    vocabulary: int, *, candidates: int, probes: int, prefix: int, suffix: int, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """Demonstrations with their probes, every suffix token scored."""
    random = np.random.default_rng(seed)
    requests = []
    for _ in range(candidates):
        demonstration = random.integers(2, vocabulary, prefix).tolist()
        requests += [(demonstration, random.integers(2, vocabulary, suffix).tolist()) for _ in range(probes)]
    return requests


def measure(
    model: str, dtype: str, *, device: str = "cpu", runs: int = 3, axes: dict[str, tuple[int, ...]] | None = None
) -> dict[str, Any]:
    """Points by axis; the runs go through all points in turn, so that a slow moment touches each alike."""
    scorer = instsel.Scorer(models.make_model(model, dtype, device=device))
    vocabulary = models.vocabulary(model)
    points = [
        {"axis": axis, "value": value, "settings": {**FIXED, axis: value}, "seconds": []}
        for axis, values in (AXES if axes is None else axes).items()
        for value in values
    ]
    work = [requests_of(vocabulary, **point["settings"]) for point in points]
    instsel.score_batch(scorer, work[0])
    for _ in range(runs):
        for point, requests in zip(points, work, strict=True):
            stats = instsel.score_batch(scorer, requests).stats
            point["seconds"].append(stats.seconds)
            point["tokens_forwarded"] = stats.tokens_forwarded
            point["tokens_unshared"] = stats.tokens_unshared
    for point in points:
        point["median_seconds"] = statistics.median(point["seconds"])
    return {
        "benchmark": "scaling",
        "model": model,
        "dtype": dtype,
        "device": device,
        "points": points,
        "slopes": {axis: slope([p for p in points if p["axis"] == axis]) for axis in dict.fromkeys(_axes(points))},
        "environment": environment(device),
    }


def _axes(points: list[dict[str, Any]]) -> list[str]:
    return [point["axis"] for point in points]


def slope(points: list[dict[str, Any]]) -> float:
    """Exponent of time against tree tokens along one axis: 1 where time follows the tree."""
    tokens = np.log([point["tokens_forwarded"] for point in points])
    return float(np.polyfit(tokens, np.log([point["median_seconds"] for point in points]), 1)[0])


def draw(result: dict[str, Any], path: Path) -> None:
    """One panel an axis: seconds measured, the line of tree tokens, and what an unshared run would forward."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "instsel"
    axes = list(result["slopes"])
    figure, panels = plt.subplots(1, len(axes), figsize=(3.2 * len(axes), 3), layout="constrained")
    for axis, panel in zip(axes, np.atleast_1d(panels), strict=True):
        points = [point for point in result["points"] if point["axis"] == axis]
        value = [point["value"] for point in points]
        rate = points[-1]["median_seconds"] / points[-1]["tokens_forwarded"]
        panel.loglog(value, [rate * point["tokens_unshared"] for point in points], ":", color="0.6", label="unshared")
        panel.loglog(value, [rate * point["tokens_forwarded"] for point in points], "-", color="C0", label="tree")
        panel.loglog(value, [point["median_seconds"] for point in points], "o", color="C1", label="measured")
        panel.set_xticks(value, [str(v) for v in value])
        panel.minorticks_off()
        unit = " (tokens)" if axis in ("prefix", "suffix") else ""
        panel.set_xlabel(f"{axis}{unit}")
        panel.set_title(f"time ~ tokens^{result['slopes'][axis]:.2f}", fontsize=9)
    np.atleast_1d(panels)[0].set_ylabel("seconds")
    np.atleast_1d(panels)[0].legend(fontsize=8, frameon=False)
    figure.suptitle(f"{result['model']}, {result['dtype']}, {result['device']}", fontsize=10)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Measure, print the slopes, write JSON and SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models.NAMES, default="smollm2-135m")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="the two smallest points of each axis")
    parser.add_argument("--output", type=Path, help="folder for the result file and the plot")
    options = parser.parse_args()
    result = measure(
        options.model,
        options.dtype,
        device=options.device,
        runs=options.runs,
        axes=TRIED if options.quick else None,
    )
    for axis, exponent in result["slopes"].items():
        print(f"{axis}: time grows as tree tokens to the power {exponent:.2f}")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        stem = f"scaling_{options.device.replace(':', '')}_{options.model}_{options.dtype}"
        (options.output / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
        draw(result, options.output / f"{stem}.svg")


if __name__ == "__main__":
    main()
