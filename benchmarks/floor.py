"""The machine's matrix rate, and the least time that some work takes at that rate.

    python benchmarks/floor.py [--dtype bfloat16] [--device cpu]

The rate is that of torch's own matrix product of random data, the best median over several shapes: large ones, and
those of the models' layers. The floor is the plan's arithmetic (`plan_batch(...).estimated_flops`: 2 B per token,
2 H V per head row, 2 H per pair, 4 layers heads d per token and key) over that rate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

SHAPES = ((2048, 2048, 2048), (4096, 4096, 4096), (2048, 4096, 8192), (8192, 2048, 2048))
DEVICE_SHAPES = ((8192, 8192, 8192), (16384, 8192, 8192), (8192, 4096, 14336))


def matrix_rate(dtype: str, device: str = "cpu", *, seconds: float = 4.0, shapes: tuple = ()) -> dict[str, float]:
    """FLOP/s of `x @ w.T`, by shape "MxKxN": the median over as many runs as fit into an equal share of the time."""
    shapes = shapes or (SHAPES if torch.device(device).type == "cpu" else DEVICE_SHAPES)
    rates = {}
    for m, k, n in shapes:
        x = torch.randn(m, k, device=device).to(getattr(torch, dtype))
        w = torch.randn(n, k, device=device).to(getattr(torch, dtype))
        out = torch.empty(m, n, device=device, dtype=x.dtype)
        samples: list[float] = []
        end = time.perf_counter() + seconds / len(shapes)
        while len(samples) < 4 or time.perf_counter() < end:
            _wait(device)
            begin = time.perf_counter()
            torch.mm(x, w.T, out=out)
            _wait(device)
            samples.append(time.perf_counter() - begin)
        rates[f"{m}x{k}x{n}"] = 2.0 * m * k * n / statistics.median(samples[1:])  # the first one warms up
    return rates


def best_rate(dtype: str, device: str = "cpu", *, seconds: float = 4.0) -> float:
    """The highest of the rates, in FLOP/s."""
    return max(matrix_rate(dtype, device, seconds=seconds).values())


@torch.inference_mode()
def layers_rate(model: torch.nn.Module, rows: int, *, runs: int = 3) -> float:
    """FLOP/s of torch's own products with all weights of the layers in turn, the median over runs.

    It is what a forward of `rows` tokens would reach if it did nothing but these products: each meets weights that the
    caches have lost since the last pass, unlike the square ones of `matrix_rate`.
    """
    weights = [part.weight for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and "." in name]
    device = weights[0].device
    inputs = {
        size: torch.randn(rows, size, device=device).to(weights[0].dtype) for size in {w.shape[1] for w in weights}
    }
    samples = []
    for _ in range(runs):
        _wait(str(device))
        begin = time.perf_counter()
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        _wait(str(device))
        samples.append(time.perf_counter() - begin)
    return 2.0 * rows * sum(weight.numel() for weight in weights) / statistics.median(samples)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the rates as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    print(json.dumps(matrix_rate(options.dtype, options.device, seconds=options.seconds), indent=2))


if __name__ == "__main__":
    main()
