"""Copies to and from a device that do not wait for it, and making it the current one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from .float32_products import full_float32_products


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, copied in line with what a GPU has been given already.

    From memory that is not page-locked the copy would wait for all of that.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Within this block a GPU is the current one, and its float32 products are not rounded: Triton launches there,
    whatever the tensors' device, and a stream or an event is one of it."""
    return _on_gpu(device) if device.type == "cuda" else nullcontext()


@contextmanager
def _on_gpu(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device), full_float32_products():
        yield


def to_host(tensor: Tensor) -> Callable[[], np.ndarray]:
    """A copy of a tensor for the host, given in line now; the function waits for it and no longer.

    Asked for later, the copy would stand behind what the GPU is given in between.
    """
    tensor = tensor.detach()
    if tensor.device.type != "cuda":
        return tensor.cpu().numpy
    with current(tensor.device):
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

    def wait() -> np.ndarray:
        copied.synchronize()
        return host.numpy()

    return wait
