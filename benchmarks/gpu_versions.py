"""What a GPU's machine has: versions, what is missing and what it would be for, and which attention runs there."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from environment import environment
from floor import matrix_rate

from instsel.kernels import attention_probes, varlen_attention
from instsel.kernels.attention_kinds import AttentionKind
from instsel.kernels.backends import native_error, triton_error

# Package, and what is left out without it.
OPTIONAL = {
    "triton": "all kernels on a GPU: plain PyTorch code runs instead",
    "flash-attn": "flash attention, where torch's own varlen attention lacks something",
    "lm-eval": "the comparison with lm-evaluation-harness",
    "vllm": "the comparison with vLLM",
    "sglang": "the comparison with SGLang",
    "liger-kernel": "Liger beside the head's kernel",
    "cut-cross-entropy": "cut-cross-entropy beside the head's kernel",
    "scipy": "rank correlations of comparisons",
}
HEAD_SIZES = (128, 64, 256, 80, 96, 192, 512)
KINDS = {"plain": (False, False, False), "window and cap": (True, True, False), "sinks": (False, False, True)}


def said(*command: str) -> str | None:
    """What a program prints, or None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip()[-2000:] if done.returncode == 0 else None


def versions(device: str) -> dict[str, Any]:
    """Environment, compilers, the GPU, and a line for everything that is missing."""
    place = torch.device(device)
    found: dict[str, Any] = {"environment": environment(device), "native": native_error() or "there"}
    found["triton"] = triton_error(place) or "there"
    found["compiler"] = next(iter((said("c++", "--version") or "none").splitlines()), "none")
    found["nvidia_smi"] = said("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem", "--format=csv")
    found["tf32_override"] = os.environ.get("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
    if place.type == "cuda":
        found["capability"] = torch.cuda.get_device_capability(place)
        found["memory_bytes"] = torch.cuda.get_device_properties(place).total_memory
    found["missing"] = {}
    for package, purpose in OPTIONAL.items():
        try:
            found.setdefault("packages", {})[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found["missing"][package] = purpose
    return {"ok": True, **found}


def backends(device: str, dtype: torch.dtype, head_size: int) -> dict[str, Any]:
    """Each backend of attention by kind of call: its relative difference from the reference, or why it cannot run."""
    found: dict[str, Any] = {"ok": True}
    for (name, options), backend in itertools.product(KINDS.items(), ("varlen", "triton")):
        kind = AttentionKind(torch.device(device), dtype, head_size, 4, *options)
        entry: dict[str, Any] = {}
        reason = varlen_attention.varlen_error(kind) if backend == "varlen" else triton_error(kind.device)
        if reason is None:
            try:
                entry["difference"] = attention_probes.relative_difference(backend, kind)
                if not entry["difference"] <= attention_probes.TOLERANCE[dtype]:
                    found["ok"] = False
                    found.setdefault("wrong", []).append(f"{backend}, {name}: differs by {entry['difference']:.1%}")
            except Exception as error:  # a package's own: passed over, and said
                entry["raises"] = f"{type(error).__name__}: {error}"[:300]
        else:
            entry["cannot"] = reason
        found[f"{backend}, {name}"] = entry
    return found


def calls(device: str, tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Versions, the matrix rates, and attention by dtype and head size."""
    named: dict[str, Callable[[], dict[str, Any]]] = {"versions": partial(versions, device)}
    for dtype in ("bfloat16", "float32"):
        shapes = ((64, 64, 64),) if tiny else ()
        rate = partial(matrix_rate, dtype, device, seconds=0.01 if tiny else 2.0, shapes=shapes)
        named[f"rate {dtype}"] = lambda rate=rate: {"ok": True, "flop_per_s": rate()}
    sizes = [(torch.float16, 64)] if tiny else [(torch.bfloat16, size) for size in HEAD_SIZES]
    if not tiny:
        sizes += [(torch.float16, 128), (torch.float32, 128)]
    for of, size in sizes:
        named[f"attention {of} head {size}"] = partial(backends, device, of, size)
    return named
