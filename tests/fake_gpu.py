"""A GPU that computes nothing: the engine's CUDA path with tensors that have a shape and a device and no numbers.

What would be wrong, or slow, on a real one is written down: tensors of two devices in one launch, a launch or an event
while another GPU is the current one, a copy that waits, a number read on the host, a grid that is too large.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LARGEST_GRID = (2**31 - 1, 65_535, 65_535)
WITHOUT_KERNEL = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "_unsafe_view", "lift_fresh", "alias")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "equal", "is_nonzero", "item")


class FakeGpu:
    """What was launched, and what was wrong."""

    def __init__(self, device: torch.device, capability: tuple[int, int]) -> None:
        self.device = device
        self.capability = capability
        self.current = 0
        self.launches: list[str] = []
        self.operations: list[str] = []  # of torch, those that a GPU runs a kernel for
        self.events: list[tuple[str, int]] = []  # what was recorded and waited for, with the event's number
        self.variants: dict[str, set[Any]] = {}  # what Triton would compile of each kernel
        self.complaints: list[str] = []
        self.pinned: set[int] = set()
        self.watch: Any = None

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within this block nothing may wait for the GPU."""
        self.watch.forbidden = True
        try:
            yield
        finally:
            self.watch.forbidden = False

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def check_current(self, what: str) -> None:
        if self.current != self.device.index:
            self.complain(f"{what} while cuda:{self.current} is the current device")

    def launch(self, kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        """What the launch of a Triton kernel must hold to."""
        name = kernel.fn.__name__
        self.launches.append(name)
        self.variants.setdefault(name, set()).add(variant_of(kernel, arguments, constants))
        self.check_current(f"{name} was launched")
        for argument in arguments:
            if isinstance(argument, torch.Tensor) and argument.device != self.device:
                self.complain(f"{name} was given a tensor on {argument.device}")
            if isinstance(argument, int) and not -(2**31) <= argument < 2**31:
                self.complain(f"{name} was given {argument}, which its other indices cannot hold")
        for size, largest in zip(grid, LARGEST_GRID, strict=False):
            if not 1 <= size <= largest:
                self.complain(f"{name} has the grid {grid}")
        known = {*kernel.arg_names, "num_warps", "num_stages", "maxnreg", "enable_fp_fusion"}
        if unknown := set(constants) - known:
            self.complain(f"{name} does not know {unknown}")
        if len(arguments) + len(set(constants) & set(kernel.arg_names)) != len(kernel.arg_names):
            self.complain(f"{name} takes {len(kernel.arg_names)} arguments")


def variant_of(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any]) -> tuple[Any, ...]:
    """What decides whether a launch needs a kernel compiled anew, as Triton's documentation of `jit` describes it: a
    tensor's type and whether it begins at a multiple of 16 bytes; whether a number is 1, or a multiple of 16."""
    found: list[Any] = [*sorted(constants.items())]
    for parameter, given in zip(kernel.params, arguments, strict=False):
        if isinstance(given, torch.Tensor):
            begins = given.storage_offset() * given.element_size()
            aligned = begins % 16 == 0 and not parameter.do_not_specialize_on_alignment
            found.append((parameter.name, given.dtype, aligned))
        elif isinstance(given, int):
            special = not parameter.do_not_specialize
            found.append((parameter.name, special and given == 1, special and given % 16 == 0))
        else:
            found.append((parameter.name, type(given).__name__))
    return tuple(found)


class Watch(TorchDispatchMode):
    """Runs what concerns the GPU without numbers, and writes down what would wait for it where that is `forbidden`."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self.gpu = gpu
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.forbidden = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "aten":  # in inference mode operations come here before they have been taken apart
            with self:
                taken_apart = function.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        target = torch.device(kwargs.get("device") or "cpu")
        if target.type == "cpu" and not any(isinstance(one, FakeTensor) for one in tensors):
            return function(*args, **kwargs)
        if self.forbidden:
            self._look_at(function.overloadpacket.__name__, tensors, args, kwargs)
        with self.fake:
            out = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        made = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor) and one.device.type == "cuda"]
        from_host = name in ("_to_copy", "copy_") and tensors[-1].device.type == "cpu"
        if made and not function.is_view and name not in WITHOUT_KERNEL and not from_host:
            self.gpu.operations.append(name)
        return out

    def _look_at(self, name: str, tensors: list[torch.Tensor], args: Any, kwargs: Any) -> None:
        if name in WAITING and any(one.device.type == "cuda" for one in tensors):
            self.gpu.complain(f"{name} reads a number of the GPU")
        if name not in ("_to_copy", "copy_"):
            return
        source = tensors[-1]
        target = tensors[0].device if name == "copy_" else torch.device(kwargs.get("device") or source.device)
        if source.device.type == target.type:
            return
        waits = not (args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking", False))
        if waits:
            self.gpu.complain(f"a copy from {source.device.type} to {target.type} that waits")
        elif target.type == "cuda" and id(source) not in self.gpu.pinned:
            self.gpu.complain("a copy from memory that is not page-locked")


class _Event:
    gpu: FakeGpu

    def record(self, stream: Any = None) -> None:
        self.gpu.check_current("an event was recorded")
        self.number = sum(what == "recorded" for what, _ in self.gpu.events)
        self.gpu.events.append(("recorded", self.number))

    def synchronize(self) -> None:
        """Nothing is under way."""
        self.gpu.events.append(("waited for", self.number))


@functools.cache
def load_guard() -> None:
    """For the rest of the process, which should be one of its own: see fake_gpu_guard.cpp."""
    if torch.cuda.is_available():
        return
    installed = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "guard.so"
        command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-fPIC", "-shared", f"-I{installed / 'include'}"]
        command += [str(Path(__file__).with_name("fake_gpu_guard.cpp")), f"-L{installed / 'lib'}", "-lc10"]
        subprocess.run([*command, "-o", str(library)], check=True)
        ctypes.CDLL(str(library))


@contextlib.contextmanager
def fake_gpu(device: str = "cuda:1", capability: tuple[int, int] = (9, 0)) -> Iterator[FakeGpu]:
    """Within this block tensors on `device` have no numbers, and Triton launches and copies are watched."""
    load_guard()
    gpu = FakeGpu(torch.device(device), capability)
    kept: list[torch.Tensor] = []  # an id is one tensor's as long as the tensor is there

    class Current:
        def __init__(self, wanted: Any) -> None:
            self.wanted = torch.device(wanted).index or 0

        def __enter__(self) -> None:
            self.before, gpu.current = gpu.current, self.wanted

        def __exit__(self, *error: object) -> None:
            gpu.current = self.before

    def pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        kept.append(tensor)
        gpu.pinned.add(id(tensor))
        return tensor

    own_empty = torch.empty

    def empty(*sizes: Any, pin_memory: bool = False, **more: Any) -> torch.Tensor:
        made = own_empty(*sizes, **more)
        return pin(made) if pin_memory else made

    def launched(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **constants: gpu.launch(kernel, grid, arguments, constants)

    patches = (
        mock.patch.object(torch.cuda, "device", Current),
        mock.patch.object(torch.cuda, "get_device_capability", lambda device=None: gpu.capability),
        mock.patch.object(torch.cuda, "Event", type("Event", (_Event,), {"gpu": gpu})),
        mock.patch.object(torch.cuda, "empty_cache", lambda: None),
        mock.patch.object(torch.cuda, "_lazy_init", lambda: None),
        mock.patch.object(torch.Tensor, "pin_memory", pin),
        mock.patch.object(torch, "empty", empty),
        mock.patch.object(triton.runtime.jit.JITFunction, "__getitem__", launched),
    )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        gpu.watch = stack.enter_context(Watch(gpu))
        yield gpu


__all__ = ["FakeGpu", "FakeTensor", "fake_gpu"]
