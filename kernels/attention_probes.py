"""Which attention a GPU can run: each is tried once, on a small tree, for every kind of call."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from .attention_kinds import AttentionKind, AttentionOptions, implementation
from .tree_segments import TreeSegments

# About three roundings of the dtype; a window that is off by one key moves results by a tenth.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
WINDOW, SOFTCAP = 20, 5.0


@functools.cache
def backend_failure(backend: str, kind: AttentionKind) -> str | None:
    """Why a backend is not to be used for calls of this kind, or None where it agrees with the reference.

    Whatever a package raises where it meets a device, a head size or an option that it was not built for, and results
    that differ, are found here once and warned of; a call of the model never meets them.
    """
    try:
        difference = relative_difference(backend, kind)
        reason = None if difference <= TOLERANCE[kind.dtype] else f"it differs from the reference by {difference:.1%}"
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # a package's own
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    if reason is not None:
        warnings.warn(
            f"attention on {kind.device} in {kind.dtype} with head size {kind.head_size}: backend {backend!r} is "
            f"passed over: {reason}",
            stacklevel=2,
        )
    return reason


def relative_difference(backend: str, kind: AttentionKind) -> float:
    """Norm of the difference from the reference in float32 on the processor, over the reference's.

    The tree is a root, two children that fill no tile and a grandchild.
    """
    segments = TreeSegments.from_lists([0, 70, 73, 110, 117], [[], [(0, 70)], [(0, 70)], [(0, 70), (73, 110)]])
    generator = torch.Generator().manual_seed(0)
    heads = (2 * kind.group, 2, 2)
    tensors = [torch.randn(117, count, kind.head_size, generator=generator).to(kind.dtype) for count in heads]
    sinks = torch.linspace(-1.0, 1.0, 2 * kind.group) if kind.has_sinks else None
    window, softcap = WINDOW if kind.has_window else None, SOFTCAP if kind.has_softcap else None
    options = AttentionOptions(kind.head_size**-0.5, window, softcap)

    def run(backend: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        given = [one.to(device, dtype) for one in tensors]
        return implementation(backend)(
            *given, segments, options._replace(sinks=None if sinks is None else sinks.to(device))
        ).float()

    with torch.inference_mode():
        found = run(backend, kind.device, kind.dtype).cpu()
        exact = run("reference", torch.device("cpu"), torch.float32)
    return float((found - exact).norm() / exact.norm())
