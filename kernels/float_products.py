"""Products in float32 by whichever of torch's two libraries is faster on this processor, by a rule.

torch multiplies float32 by MKL, which runs AVX2 code on processors that are not Intel's, AVX-512 or not. oneDNN, which
torch uses for bfloat16, was 1.04 to 1.5 times as fast in 22 of 27 products of layers on one thread of a Zen 4, and 0.8
to 1 times in five small ones; held to AVX2, neither was the faster. Their sums round differently, and
INSTSEL_FLOAT_PRODUCT=mkl or =onednn takes the place of the rule.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LIBRARIES = ("mkl", "onednn")
VARIABLE = "INSTSEL_FLOAT_PRODUCT"


def by_mkl(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` as torch does it; it is the name of what torch is built with on x86-64."""
    return torch.nn.functional.linear(x, weight, bias)


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def float_product() -> str:
    """Which of `LIBRARIES` multiplies float32 here: the environment's, or the one for this processor.

    ValueError if INSTSEL_FLOAT_PRODUCT is neither.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted and wanted not in LIBRARIES:
        raise ValueError(f"{VARIABLE}: expected one of {LIBRARIES}, got {wanted!r}")
    if wanted == "onednn" and not _has_onednn():
        raise ValueError(f"{VARIABLE}: this build of torch has no oneDNN")
    if wanted:
        return wanted
    instructions = torch.backends.cpu.get_cpu_capability()
    return library_for(_maker(), instructions) if _has_onednn() else "mkl"


def library_for(maker: str, instructions: str) -> str:
    """The rule, by a processor's maker (as its CPUID says; "" unknown) and torch's instruction set on it.

    >>> library_for("AuthenticAMD", "AVX512"), library_for("GenuineIntel", "AVX512")
    ('onednn', 'mkl')
    """
    return "onednn" if instructions == "AVX512" and maker not in ("", "GenuineIntel") else "mkl"


def float_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weight^T + bias` of float32 rows x [T, H] and a weight [N, H], by `float_product()`."""
    return (by_onednn if float_product() == "onednn" else by_mkl)(x, weight, bias)


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available()


@cache
def _maker() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
