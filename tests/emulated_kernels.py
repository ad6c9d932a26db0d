"""The product's launches on the emulated GPU, with the tiles that the GPU would have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from ptx.device import Device, emulated

from instsel.kernels import backends, triton_linear_logprob, triton_tree_attention
from instsel.kernels import triton_configurations as configurations

GPU = torch.device("cuda:0")


@contextlib.contextmanager
def gpu(capability: int, cache: Path) -> Iterator[Device]:
    """Within this block `backend="triton"` runs on tensors of the processor, as on a GPU of this capability."""
    with pytest.MonkeyPatch.context() as patch, triton.knobs.cache.scope(), emulated(capability) as device:
        triton.knobs.cache.dir = str(cache)
        patch.setattr(configurations, "architecture", lambda device: f"sm_{capability}")
        patch.setattr(backends, "triton_interpreted", lambda: True)
        for module, name in (
            (triton_linear_logprob, "linear_configuration"),
            (triton_linear_logprob, "split_entries"),
            (triton_tree_attention, "attention_configuration"),
        ):
            patch.setattr(module, name, on_gpu(getattr(configurations, name)))
        yield device


def on_gpu(sound: Any) -> Any:
    return lambda device, *given, **named: sound(GPU, *given, **named)
