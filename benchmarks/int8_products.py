"""Whether int8 would pay: torch's own int8 products (oneDNN, VNNI or AMX) against its bfloat16 ones, by layer shape.

    python benchmarks/int8_products.py [--model smollm2-135m] [--rows 2048]

`torch._int_mm` multiplies int8 by int8 into int32. What int8 needs beside it is timed too: each row's largest value,
its numbers divided and rounded, and the int32 sums scaled back to bfloat16. The last line is Amdahl's: the most that a
run could gain if a share of its time, by default 85 % (products of the layers and of the head), became so much faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import models
import torch
from environment import environment


def seconds(run: Callable[[], object], other: Callable[[], object], pairs: int = 7) -> tuple[float, float]:
    """Medians of two ways in turns, after one run of each."""
    samples: list[tuple[float, float]] = []
    for _ in range(pairs + 1):
        begin = time.perf_counter()
        run()
        middle = time.perf_counter()
        other()
        samples.append((middle - begin, time.perf_counter() - middle))
    one, two = zip(*samples[1:], strict=True)
    return statistics.median(one), statistics.median(two)


def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 rows and their scales [T, 1]."""
    scale = x.abs().amax(-1, keepdim=True).float() / 127
    return (x / scale).round_().to(torch.int8), scale


@torch.inference_mode()
def main() -> None:
    """Print a line for each shape and the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models.NAMES, default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--share", type=float, default=0.85, help="of a run's time that is products")
    options = parser.parse_args()
    hidden, intermediate = models.sizes(options.model)
    total = [0.0, 0.0, 0.0]  # bfloat16, int8 alone, int8 with what it needs
    print(environment()["processor"], torch.get_num_threads(), "threads")
    for depth, outputs, count in ((hidden, hidden, 2), (hidden, intermediate, 2), (intermediate, hidden, 1)):
        x, weight = (torch.randn(n, depth).bfloat16() for n in (options.rows, outputs))
        (x8, _), (w8, w_scale) = quantised(x), quantised(weight)
        half, bare = seconds(lambda: torch.nn.functional.linear(x, weight), lambda: torch._int_mm(x8, w8.T))  # noqa: B023

        def whole() -> torch.Tensor:
            q, scale = quantised(x)  # noqa: B023
            return (torch._int_mm(q, w8.T) * scale * w_scale.T).bfloat16()  # noqa: B023

        error = (whole().float() - x.float() @ weight.float().T).norm() / (x.float() @ weight.float().T).norm()
        needed, _ = seconds(whole, lambda: None)
        for i, value in enumerate((half, bare, needed)):
            total[i] += count * value
        rate = 2e-12 * options.rows * depth * outputs
        print(
            f"{options.rows} x {depth} x {outputs}: bfloat16 {rate / half:.2f} TFLOP/s, int8 {rate / bare:.2f}, "
            f"with scales {rate / needed:.2f} (relative error {error:.1e})"
        )
    for name, value in (("alone", total[1]), ("with scales", total[2])):
        gain = total[0] / value
        bound = 1 / (1 - options.share + options.share / gain)
        print(f"int8 {name}: {gain:.2f} x bfloat16's products, at most {bound:.2f} x end to end")


if __name__ == "__main__":
    main()
