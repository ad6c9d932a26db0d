"""The way back of a pack's numbers: read once the next pack is under way, and never before they are there.

The packs are a model's on the processor; what brings their rows back is `to_host` over a stream of copies that stands
for a GPU's, which runs ahead of whoever waits for it or stays as far behind as it may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from random_models import shared_llama, tree_requests

import instsel
from instsel.engine.execution import Execution
from instsel.engine.requests import PreparedRequests
from instsel.kernels import devices
from instsel.planning.layout import Layout


class Stream:
    """Copies in the order in which they were given: done at once, or no sooner than somebody waits for them."""

    def __init__(self, *, ahead: bool) -> None:
        self.ahead = ahead
        self.given: list[Callable[[], None]] = []
        self.done = 0

    def add(self, copy: Callable[[], None]) -> None:
        self.given.append(copy)
        if self.ahead:
            self.run_to(len(self.given))

    def run_to(self, end: int) -> None:
        for copy in self.given[self.done : end]:
            copy()
        self.done = max(self.done, end)


class OnGpu:
    """A tensor of the GPU."""

    device, dtype = torch.device("cuda:0"), torch.float32

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers, self.shape = numbers.copy(), numbers.shape

    def detach(self) -> OnGpu:
        return self


class PageLocked:
    """Memory of the host that a copy is on its way to."""

    def __init__(self, stream: Stream, shape: tuple[int, ...]) -> None:
        self.stream, self.numbers = stream, np.full(shape, np.nan, np.float32)

    def copy_(self, source: OnGpu, *, non_blocking: bool) -> PageLocked:
        assert non_blocking

        def copy() -> None:
            self.numbers[: len(source.numbers)] = source.numbers

        self.stream.add(copy)
        return self

    def numpy(self) -> np.ndarray:
        return self.numbers


def fake_torch(stream: Stream) -> Any:
    """What `to_host` uses of torch."""

    class Event:
        def record(self) -> None:
            self.at = len(stream.given)

        def synchronize(self) -> None:
            stream.run_to(self.at)

    def empty(shape: tuple[int, ...], *, dtype: torch.dtype, pin_memory: bool) -> PageLocked:
        assert pin_memory and dtype == torch.float32
        return PageLocked(stream, shape)

    return SimpleNamespace(empty=empty, cuda=SimpleNamespace(Event=Event, device=lambda device: nullcontext()))


ToHost = Callable[[Any], Callable[[], np.ndarray]]


def read_at_once(tensor: OnGpu) -> Callable[[], np.ndarray]:
    """A fault: nobody waits for the copy."""
    return devices.torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True).numpy


def recorded_before(tensor: OnGpu) -> Callable[[], np.ndarray]:
    """A fault: the event stands before the copy."""
    host, copied = devices.torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True), devices.torch.cuda.Event()
    copied.record()
    host.copy_(tensor, non_blocking=True)  # type: ignore[arg-type]
    return lambda: (copied.synchronize(), host.numpy())[1]  # type: ignore[func-returns-value]


def into_one_buffer() -> ToHost:
    """A fault: all packs' numbers are copied to the same memory."""
    buffers: list[Any] = []

    def to_host(tensor: OnGpu) -> Callable[[], np.ndarray]:
        if not buffers:
            buffers.append(devices.torch.empty((4096, *tensor.shape[1:]), dtype=tensor.dtype, pin_memory=True))
        host, copied = buffers[0].copy_(tensor, non_blocking=True), devices.torch.cuda.Event()
        copied.record()
        return lambda: (copied.synchronize(), host.numpy()[: len(tensor.numbers)].copy())[1]  # type: ignore[func-returns-value]

    return to_host


@pytest.fixture
def scorer() -> Iterator[instsel.Scorer]:
    with instsel.Scorer(shared_llama(), device="cpu", max_batch_tokens=48) as one:
        yield one


def prepared_requests() -> PreparedRequests:
    pairs = tree_requests(np.random.default_rng(3))
    return PreparedRequests.from_ids([np.array(a + b, np.int32) for a, b in pairs], [len(a) for a, _ in pairs])


def results_of(scorer: instsel.Scorer, to_host: ToHost, log: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each pack's numbers as they were read, and as its rows were; half of the sequences are run alone."""
    rows_of: dict[int, np.ndarray] = {}

    def output(layout: Layout, rows: torch.Tensor) -> Callable[[], np.ndarray]:
        number = len(rows_of)
        rows_of[number] = rows.float().numpy().copy()
        log.append(f"pack {number} launched")
        read = to_host(OnGpu(rows_of[number]))
        return lambda: (log.append(f"pack {number} read"), read())[1]  # type: ignore[func-returns-value]

    prepared = prepared_requests()
    scorer.model.shareable_length = int(np.median(np.diff(prepared.offsets)))
    with scorer.session() as session:
        trees = scorer.plan(session.info, prepared)
        assert [planned.alone for planned in trees] == [False, True]
        execution = Execution(
            session,
            trees,
            output,
            sequences=len(prepared),
            logits=False,
            progress=lambda tokens: log.append("progress"),
        )
        with closing(execution.results()) as results:
            found = [numbers.copy() for _, numbers in results]
    assert execution.packs == log.count("progress") and not execution.failed.any()
    return list(zip(found, rows_of.values(), strict=True))


def are_right(results: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    return all(np.array_equal(read, rows) for read, rows in results)


@pytest.mark.long
@pytest.mark.parametrize("ahead", [False, True])
def test_every_packs_numbers_are_its_own_and_are_read_one_pack_behind(
    scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    monkeypatch.setattr(devices, "torch", fake_torch(Stream(ahead=ahead)))
    log: list[str] = []
    results = results_of(scorer, devices.to_host, log)
    assert len(results) > 6 and are_right(results)
    for number in range(len(results)):
        read = log.index(f"pack {number} read")
        following = f"pack {number + 1} launched"
        if following in log[:read]:
            assert f"pack {number + 2} launched" not in log[:read], "and not later: their memory would add up"
        else:  # the last of those that share, and the last of all
            assert log[read - 1] == "progress"
    behind = sum(log.index(f"pack {n} read") > log.index(f"pack {n + 1} launched") for n in range(len(results) - 1))
    assert behind == len(results) - 2, "a GPU has its next pack when this one's numbers are waited for"


@pytest.mark.long
@pytest.mark.parametrize("fault", [read_at_once, recorded_before, into_one_buffer])
def test_wrong_ways_to_read_are_seen(
    scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., Any]
) -> None:
    """Negative controls: each shows with a GPU that runs ahead, or with one that stays behind."""
    right = []
    for ahead in (False, True):
        monkeypatch.setattr(devices, "torch", fake_torch(Stream(ahead=ahead)))
        right.append(are_right(results_of(scorer, fault() if fault is into_one_buffer else fault, [])))
    assert not all(right)


@pytest.mark.long
def test_results_that_are_not_taken_to_the_end_leave_nothing_behind(scorer: instsel.Scorer) -> None:
    before = instsel.score_batch(scorer, [([5, 6], [7])]).sum_logprob
    with scorer.session() as session, pytest.raises(ZeroDivisionError):
        output = lambda layout, rows: rows.numpy  # noqa: E731
        with scorer.execute(session, prepared_requests(), output, logits=False, progress=None) as (_, results):
            next(results)
            assert torch.is_inference_mode_enabled()
            _ = 1 / 0
    assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
    assert np.array_equal(instsel.score_batch(scorer, [([5, 6], [7])]).sum_logprob, before)
