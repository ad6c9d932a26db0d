"""Tensors as the NumPy views that the C++ module takes, and the state of a row while its columns arrive in chunks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .logprobs import HeadTransform, Pairs
from .thread_shares import kernel_threads


def array_of(tensor: Tensor) -> np.ndarray:
    """A view of a CPU tensor's memory; NumPy has no bfloat16, so those are seen as uint16."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


def contiguous_array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else array_of(tensor.contiguous())


def head_arguments(head: HeadTransform) -> tuple[np.ndarray | None, float, float]:
    """What the C++ module is given of a head: bias, scale and soft-cap, of which 0 is none."""
    return contiguous_array(head.bias), head.scale, head.softcap or 0.0


def pair_arguments(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What it is given of pairs: rows, targets and mask."""
    return array_of(pairs.rows), array_of(pairs.targets), contiguous_array(pairs.mask)


def instruction_set() -> str:
    """The instruction set that the C++ kernels are asked for: "" for the best there is, or INSTSEL_INSTRUCTION_SET.

    plain (SSE2 or NEON), avx2, avx512, avx512_bf16 (with dot products of bfloat16) or amx (with tile products); each
    has what those before it have, so avx512_bf16 hides AMX and avx512 the arithmetic in bfloat16.
    """
    return os.environ.get("INSTSEL_INSTRUCTION_SET", "")


def chosen_instruction_set() -> str:
    """The instruction set that the C++ kernels run with."""
    from . import _native

    return _native.choose_instruction_set(instruction_set())


def has_bfloat16_products() -> bool:
    """Whether this processor multiplies bfloat16 as such: the C++ kernels do, and torch as well.

    Elsewhere float32 weights, at twice the memory, are the faster: on a Zen 4 whose oneDNN was held to AVX2 torch's
    bfloat16 product ran at 18 GFLOP/s a core and the float32 one at 78, held to AVX-512 at 36 and 85 (190 with
    avx512_bf16). INSTSEL_INSTRUCTION_SET does not hold torch; ONEDNN_MAX_CPU_ISA=AVX2 does.
    """
    return chosen_instruction_set() in ("avx512_bf16", "amx")


class Machine(NamedTuple):
    """What every C++ kernel is called with last."""

    threads: int
    instruction_set: str

    @classmethod
    def now(cls) -> Machine:
        return cls(kernel_threads(), instruction_set())


@dataclass(frozen=True, slots=True)
class RowStates:
    """Per row of logits: the maximum so far, the sum of exp(z - maximum) and the first column with that maximum."""

    max: np.ndarray
    sum: np.ndarray
    argmax: np.ndarray | None

    @classmethod
    def empty(cls, num_rows: int, argmax: bool) -> RowStates:
        best = np.full(num_rows, -1, dtype=np.int64) if argmax else None
        return cls(np.full(num_rows, -np.inf, dtype=np.float32), np.zeros(num_rows, dtype=np.float64), best)
