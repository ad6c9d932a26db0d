"""Which implementation of an operation runs: the one asked for by name, or the best that the tensors' device has."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .logprobs import Logprobs

BACKENDS = ("reference", "cpu", "triton")
TRITON_VERSIONS = ">=3.5,<3.10"
OLDEST_CAPABILITY = (8, 0)


@functools.cache
def native_error() -> str | None:
    """Why the C++ module cannot be used, or None if it can."""
    try:
        importlib.import_module("instsel.kernels._native")
    except ImportError as error:
        return f"the C++ module instsel.kernels._native cannot be imported ({error})"
    return None


@functools.cache
def triton_error(device: torch.device | None = None) -> str | None:
    """Why Triton cannot be used, or not on this GPU, or None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install 'instsel[triton]')"
    found = version_outside("triton", TRITON_VERSIONS)
    if found:
        return f"the kernels work with Triton {TRITON_VERSIONS}, found {found} (pip install 'instsel[triton]')"
    if device is None or device.type != "cuda" or torch.version.hip is not None:
        return None
    # On a T4 (7.5) no tile fits: shared memory does not suffice, and 7 KiB of registers would spill.
    needed, has = OLDEST_CAPABILITY, torch.cuda.get_device_capability(device)
    if has >= needed:
        return None
    return f"the kernels need compute capability {needed[0]}.{needed[1]} or later, and {device} has {has[0]}.{has[1]}"


def version_outside(distribution: str, versions: str) -> str | None:
    """A package's version where that is outside a range; None where it is within, or where the package says none."""
    from packaging.specifiers import SpecifierSet

    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    return None if SpecifierSet(versions).contains(found, prereleases=True) else found


@functools.cache
def _say_slower(reason: str) -> None:
    warnings.warn(f"kernels on a GPU run plain PyTorch code, which is slower: {reason}", stacklevel=4)


def triton_interpreted() -> bool:
    """Whether Triton's interpreter is on, under which its kernels take CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def choose_backend(backend: str, device: torch.device) -> str:
    """Resolve "auto" for tensors on `device`, or check that the backend asked for by name can run there.

    Raises ValueError if the name is unknown or if that backend cannot run; it never falls back silently.
    """
    if backend == "auto":
        if device.type == "cuda":
            if (error := triton_error(device)) is None:
                return "triton"
            _say_slower(error)
        if device.type == "cpu" and native_error() is None:
            return "cpu"
        return "reference"
    if backend not in BACKENDS:
        raise ValueError(f'backend: expected "auto" or one of {BACKENDS}, got {backend!r}')
    reason = None
    if backend == "cpu":
        reason = native_error() if device.type == "cpu" else f"it needs CPU tensors and these are on {device}"
    elif backend == "triton":
        reason = triton_error(device)
        if reason is None and device.type == "cpu" and not triton_interpreted():
            reason = "it needs GPU tensors (or TRITON_INTERPRET=1, set before Triton is imported) and these are on cpu"
    if reason is not None:
        raise ValueError(f"backend: {backend!r} cannot be used: {reason}")
    return backend


def implementation(operation: str, backend: str) -> Callable[..., Logprobs]:
    """The function of `linear_logprob` or `row_logprob` on a backend: of that name, in a module named after both."""
    module = "reference" if backend == "reference" else f"{backend}_{operation}"
    run: Callable[..., Logprobs] = getattr(importlib.import_module(f".{module}", __package__), operation)
    return run
