"""What the program around a call has set for PyTorch and must find again, and must not move a score."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from instsel.engine.processors import sharing_processors
from instsel.kernels.devices import current


@contextmanager
def inference_context(device: torch.device, *, inference: bool = True) -> Iterator[None]:
    """Within this block nothing records gradients, and no autocast or default device of the caller's has a say; a GPU
    is the current one, and a processor is shared with other processes.

    inference  whether tensors may be inference tensors, which subclasses such as quantised weights cannot be made of
    """
    with ExitStack() as stack:
        if inference:
            stack.enter_context(torch.inference_mode())
        else:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        stack.enter_context(current(device))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cpu":
            stack.enter_context(sharing_processors())
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def preserved_random_state(device: torch.device | None = None) -> Iterator[None]:
    """After this block the global generators of PyTorch, NumPy and Python stand where they stood before it."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    on_gpu = device is not None and device.type == "cuda" and torch.cuda.is_initialized()
    gpu_state = torch.cuda.get_rng_state(device) if on_gpu and device is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        if gpu_state is not None and device is not None:
            torch.cuda.set_rng_state(gpu_state, device)
