"""Copies back from a GPU: read when they are done, in the order of their stream, each from memory of its own.

A stream here is a list of what was asked for, which is done only when something waits for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from instsel.kernels import devices
from instsel.kernels.devices import to_device, to_host


class Stream:
    """What was asked for and is not done yet."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def ask(self, step: Callable[[], None]) -> int:
        self.waiting.append(step)
        return len(self.waiting)

    def do(self, count: int) -> None:
        for index in range(count):
            step, self.waiting[index] = self.waiting[index], lambda: None
            step()


class GpuTensor:
    """A tensor on a GPU, whose numbers are made in its stream."""

    device, dtype = torch.device("cuda:1"), torch.float32

    def __init__(self, stream: Stream, numbers: list[float]) -> None:
        self.stream, self.shape, self.numbers = stream, (len(numbers),), [np.nan] * len(numbers)
        stream.ask(lambda: self.numbers.__setitem__(slice(None), numbers))

    def detach(self) -> GpuTensor:
        return self

    def cpu(self) -> Any:
        raise AssertionError("a copy that waits for all that the GPU was given")


class HostTensor:
    """Page-locked memory, which holds whatever was there before."""

    def __init__(self, stream: Stream, shape: tuple[int, ...]) -> None:
        self.stream, self.numbers = stream, np.full(shape, -1.0, np.float32)

    def copy_(self, source: GpuTensor, non_blocking: bool = False) -> HostTensor:
        assert non_blocking, "a copy that waits"
        self.stream.ask(lambda: self.numbers.__setitem__(slice(None), source.numbers))
        return self

    def numpy(self) -> np.ndarray:
        return self.numbers


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    asked = Stream()
    inside: list[torch.device] = []

    @contextlib.contextmanager
    def current(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    class Event:
        count = 0

        def record(self) -> None:
            assert inside == [GpuTensor.device], "an event of another GPU's stream"
            self.count = asked.ask(lambda: None)

        def synchronize(self) -> None:
            asked.do(self.count)

    def empty(shape: Any, *, dtype: torch.dtype, pin_memory: bool = False) -> HostTensor:
        assert pin_memory and dtype == torch.float32, "memory that is not page-locked"
        return HostTensor(asked, tuple(shape))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(devices, "current", current)
    yield asked


def test_a_result_is_read_once_it_is_there(stream: Stream) -> None:
    read = to_host(GpuTensor(stream, [1.0, 2.0]))  # type: ignore[arg-type]
    assert len(stream.waiting) == 3, "the copy is asked for at once, in line, and nothing is waited for"
    assert read().tolist() == [1.0, 2.0]


def test_results_of_two_packs_are_in_memory_of_their_own(stream: Stream) -> None:
    first, second = (to_host(GpuTensor(stream, [number])) for number in (3.0, 4.0))  # type: ignore[arg-type]
    later = GpuTensor(stream, [5.0])
    one = first()
    assert np.isnan(later.numbers[0]), "what was asked for after the copy is not waited for"
    assert one.tolist() == [3.0] and second().tolist() == [4.0] and one.tolist() == [3.0]


def test_what_goes_to_a_gpu_is_page_locked_and_does_not_wait() -> None:
    asked: list[Any] = []

    class Pinned:
        def to(self, device: torch.device, non_blocking: bool = False) -> str:
            asked.append((device, non_blocking))
            return "there"

    class Given:
        def pin_memory(self) -> Pinned:
            return Pinned()

    there: Any = to_device(Given(), torch.device("cuda:2"))  # type: ignore[arg-type]
    assert there == "there" and asked == [(torch.device("cuda:2"), True)]


def test_on_a_gpu_the_device_is_current_and_float32_products_are_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext(entered.append(device)))
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, True
    try:
        with devices.current(torch.device("cuda:1")):
            assert not products.allow_tf32 and entered == [torch.device("cuda:1")]
        assert products.allow_tf32
        with devices.current(torch.device("cpu")):
            assert products.allow_tf32 and len(entered) == 1
    finally:
        products.allow_tf32 = before
