"""The emulated GPU sees what a kernel is wrong or lucky with: barriers, waits, fences and bounds that are taken out.

One that is not reported when it alone is taken out is covered by the next: nothing between the two uses what it orders.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
from emulated_kernels import gpu
from kernel_checks import check_attention, check_linear
from ptx.device import Device
from ptx.memory import GlobalMemory
from ptx.program import Program, without
from test_emulated_kernels import check_recurrence
from test_tree_recurrences import HALF

from instsel.kernels.layer_elementwise import add_norm

SYNCHRONISES = ("bar.sync", "cp.async.wait_group", "wgmma.wait_group", "fence.proxy.async", "cp.async.commit_group")
SHORT = ([0, 70], [[(0, 9)]], 9)
BRANCHED = ([0, 10], [[(0, 140), (141, 300)]], 300)  # ranges of more than one tile of keys


def places(program: Program, kinds: tuple[str, ...]) -> list[int]:
    return [at for at, one in enumerate(program.instructions) if one.operation.startswith(kinds)]


def run_without(device: Device, kernel: str, at: int, call: object) -> bool:
    """Whether something is reported, or the numbers are wrong, with one instruction less."""
    device.faults.clear()
    device.change = lambda name, program: without(program, at) if name == kernel else program
    try:
        call()  # type: ignore[operator]
    except AssertionError:
        return True
    return bool(device.faults)


def check_all(device: Device, kernel: str, call: object) -> dict[str, list[bool]]:
    """For every kind of instruction that orders things: whether each is missed when it is not there."""
    seen: list[Program] = []
    device.change = lambda name, program: (seen.append(program) if name == kernel else None, program)[1]
    call()  # type: ignore[operator]
    assert not device.faults
    found: dict[str, list[bool]] = {}
    for at in places(seen[0], SYNCHRONISES):
        kind = next(kind for kind in SYNCHRONISES if seen[0].instructions[at].operation.startswith(kind))
        found.setdefault(kind, []).append(run_without(device, kernel, at, call))
    return found


@pytest.mark.long
def test_a_barrier_and_a_wait_of_attention_are_missed(tmp_path: Path) -> None:
    with gpu(80, tmp_path) as device:
        call = lambda: check_attention((2, 1, 64), torch.bfloat16, given=SHORT)  # noqa: E731
        call()
        assert not device.faults
        program = next(one for one in device.programs.values() if places(one, ("cp.async.wait_group",)))
        for kind in ("bar.sync", "cp.async.wait_group"):
            at = places(program, (kind,))
            assert any(run_without(device, "tree_attention_kernel", place, call) for place in at[-2:]), kind


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_barrier_and_wait_of_attention(capability: int, tmp_path: Path) -> None:
    with gpu(capability, tmp_path) as device:
        found = check_all(
            device, "tree_attention_kernel", lambda: check_attention((2, 1, 64), torch.bfloat16, given=BRANCHED)
        )
    print(capability, found)
    assert all(any(found[kind]) for kind in found if kind.endswith(("sync", "wait_group"))), found


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_every_barrier_and_wait_of_the_head(capability: int, tmp_path: Path) -> None:
    call = lambda: check_linear((17, 256, 300), "plain", torch.bfloat16, fused=True, apart=130)  # noqa: E731
    with gpu(capability, tmp_path) as device:
        found = check_all(device, "linear_states_kernel", call)
    print(capability, found)
    assert all(any(found[kind]) for kind in found if kind.endswith(("sync", "wait_group"))), found


@pytest.mark.slow
def test_every_barrier_of_a_recurrence(tmp_path: Path) -> None:
    with gpu(90, tmp_path) as device:
        found = check_all(
            device, "tree_recurrence_kernel", lambda: check_recurrence("delta rule", HALF, [18, 0, 20], [-1, 0, 1])
        )
    print(found)
    assert any(found["bar.sync"]), found


@pytest.mark.slow
def test_every_barrier_of_a_norm(tmp_path: Path) -> None:
    """Its sums over rows are of several warps."""
    x, weight = torch.randn(2, 2049, generator=torch.Generator().manual_seed(0)).bfloat16(), torch.ones(2049).bfloat16()

    def call() -> None:
        difference = add_norm(x, weight, 1e-6, backend="triton").float() - add_norm(x, weight, 1e-6).float()
        assert float(difference.abs().max()) < 0.05

    with gpu(90, tmp_path) as device:
        found = check_all(device, "layer_norm_kernel", call)
    print(found)
    assert any(found["bar.sync"]), found


def test_an_element_past_a_tensor_is_reported() -> None:
    memory = GlobalMemory(Counter())
    wide = torch.arange(40.0).reshape(5, 8)
    base = memory.add(wide[1:4, 2:6])
    warps = np.zeros(1, np.int64)
    inside = memory.access(np.array([base + 4 * 8]), 4, warps)
    assert inside.view(np.float32)[0, 0] == 18.0 and not memory.faults
    for offset in (-4, 4 * 4, 4 * 20):  # before it, between two rows, behind it
        memory.access(np.array([base + offset]), 4, warps)
    assert memory.faults["a global read outside of its tensor"] == 3
