"""A GPU for Triton whose kernels are executed by `Block`: the product's own launches, with tensors of the processor."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

from .block import Block
from .memory import GlobalMemory
from .program import Program, parse

SHARED = {80: 163, 86: 99, 90: 227}  # KiB that a block may have: CUDA programming guide, technical specifications


class Device:
    """What was launched on it, and what was wrong: {what: how often}."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.faults: Counter[str] = Counter()
        self.launches: list[str] = []
        self.programs: dict[bytes, Program] = {}
        self.executed = 0
        self.change: Callable[[str, Program], Program] = lambda name, program: program

    def launch(self, metadata: Any, ptx: bytes, grid: tuple[int, int, int], arguments: list[Any]) -> None:
        name = metadata.name
        self.launches.append(name)
        if ptx not in self.programs:
            self.programs[ptx] = parse(ptx.decode(), metadata.shared, metadata.num_warps)
        program = self.change(name, self.programs[ptx])
        memory = GlobalMemory(self.faults)
        given = [0 if one is None else memory.add(one) if isinstance(one, torch.Tensor) else one for one in arguments]
        given += [0] * (len(program.parameters) - len(given))
        with np.errstate(all="ignore"):
            block = Block(program, given, memory, self.faults)
            for number, (z, y, x) in enumerate(np.ndindex(grid[::-1])):
                memory.block = number
                block.run((x, y, z), grid)
        self.executed += block.executed


@contextlib.contextmanager
def emulated(capability: int) -> Iterator[Device]:
    """Within this block Triton compiles for a GPU of this capability, and launches on tensors of the processor run."""
    device = Device(capability)

    def launcher(source: Any, metadata: Any) -> Callable[..., None]:
        """As Triton's own is called: a grid, six things that only a GPU needs, and the kernel's arguments."""
        constants = {path[0] for path in source.constants if len(path) == 1}

        def run(x: int, y: int, z: int, *given: Any) -> None:
            arguments = [one for place, one in enumerate(given[6:]) if place not in constants]
            device.launch(metadata, given[1], (x, y, z), arguments)

        return run

    driver = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,
        get_current_stream=lambda number: 0,
        get_active_torch_device=lambda: torch.device("cpu"),
        launcher_cls=launcher,
        utils=SimpleNamespace(
            get_device_properties=lambda number: {"max_shared_mem": SHARED[capability] * 1024},
            load_binary=lambda name, binary, shared, number: (None, binary, 0, 0, 1024),
        ),
    )
    active = triton.runtime.driver.driver if hasattr(triton.runtime.driver, "driver") else triton.runtime.driver
    before = active._active
    active.set_active(driver)
    try:
        with (
            mock.patch.object(CUDABackend, "make_cubin", lambda self, source, *_: source.encode()),
        ):
            yield device
    finally:
        active._active = before
