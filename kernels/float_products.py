"""Products in float32 by whichever of torch's two libraries is faster on this processor.

torch multiplies float32 by MKL, which runs AVX2 code on processors that are not Intel's; oneDNN, which torch uses for
bfloat16, was 1.3 to 1.8 times as fast on two cores of a Zen 4 (1.04 to 1.13 on one). Their sums round differently:
INSTSEL_FLOAT_PRODUCT=mkl or =onednn settles the choice, so that bits do not depend on a measurement.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

LIBRARIES = ("mkl", "onednn")
VARIABLE = "INSTSEL_FLOAT_PRODUCT"
# Rows and, at most, outputs of the products that are timed: a millisecond or two each.
TIMED_ROWS, TIMED_OUTPUTS = 256, 512
TIMED_PAIRS = 8
# What oneDNN must gain to be chosen: where both are as fast, the choice must not be left to chance.
LEAST_GAIN = 1.1

Choices = dict[tuple[int, int], str]
_measured: Choices = {}
_settled: Choices | None = None


def by_mkl(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` as torch does it; it is the name of what torch is built with on x86-64."""
    return torch.nn.functional.linear(x, weight, bias)


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def float_product(outputs: int, depth: int) -> str:
    """Which of `LIBRARIES` multiplies by a float32 weight [outputs, depth]: the environment's, or the faster.

    Timed once in a process for a shape; ValueError if INSTSEL_FLOAT_PRODUCT is neither.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        if wanted not in LIBRARIES:
            raise ValueError(f"{VARIABLE}: expected one of {LIBRARIES}, got {wanted!r}")
        if wanted == "onednn" and not _has_onednn():
            raise ValueError(f"{VARIABLE}: this build of torch has no oneDNN")
        return wanted
    if not (_has_onednn() and outputs and depth):
        return "mkl"
    shape = min(outputs, TIMED_OUTPUTS), depth
    if _settled is not None:
        return _settled.get(shape, "mkl")
    if shape not in _measured:
        _measured[shape] = _faster(*shape)
    return _measured[shape]


def choices_for(shapes: Iterable[tuple[int, int]]) -> Choices:
    """What is chosen here for weights [outputs, depth], and for the chunks of a head of each depth: for `settle`."""
    wanted = {(min(outputs, TIMED_OUTPUTS), depth) for outputs, depth in shapes}
    wanted |= {(TIMED_OUTPUTS, depth) for _, depth in wanted}
    return {shape: float_product(*shape) for shape in sorted(wanted)}


def choices_made() -> Choices:
    """All that was measured in this process, or remembered: for `remember` in one that goes on with its work."""
    return dict(_measured)


def remember(choices: Choices) -> None:
    """Take the choices of an earlier process for its shapes, so that its work goes on with the same bits."""
    _measured.update(choices)


def settle(choices: Choices) -> None:
    """Take the choices that another process made, beside those taken before: nothing is measured here any more.

    With one thread another library may be the faster than with two, and bits are to be those of that process. Shapes
    that are not among the choices are by MKL.
    """
    global _settled
    _settled = {**(_settled or {}), **choices}


def float_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` of float32 rows x [T, H] and a weight [N, H], by `float_product(N, H)`."""
    product = by_onednn if float_product(weight.shape[0], weight.shape[1]) == "onednn" else by_mkl
    return product(x, weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()


def _faster(outputs: int, depth: int) -> str:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, depth, generator=generator) for rows in (TIMED_ROWS, outputs))
    # With all threads, between which much of the difference lies. What else the machine does only ever adds to a time,
    # so the least of several in turns is what the processor can do.
    pairs = [(_seconds(by_mkl, x, weight), _seconds(by_onednn, x, weight)) for _ in range(TIMED_PAIRS)]
    mkl, onednn = (min(times) for times in zip(*pairs, strict=True))
    return "onednn" if mkl >= LEAST_GAIN * onednn else "mkl"


@torch.inference_mode()
def _seconds(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> float:
    begin = time.perf_counter()
    product(x, weight)
    return time.perf_counter() - begin
