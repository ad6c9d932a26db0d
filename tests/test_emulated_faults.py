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
from ptx.block import Block
from ptx.device import Device
from ptx.memory import GlobalMemory
from ptx.program import Program, parse, without
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


@pytest.mark.parametrize(
    ("selector", "want"),
    [
        ("0x3210", 0x04830201), ("0x7654", 0x88F70605), ("0x0123", 0x01028304), ("0x5410", 0x06050201),
        ("0x3340U", 0x04040501), ("0xA98F", 0xFF0000FF),
    ],
)  # fmt: skip
def test_bytes_are_chosen_and_signs_spread(selector: str, want: int) -> None:
    """By the instruction's definition: no kernel is sure to put numbers in its way that tell one byte from another."""
    text = (
        ".visible .entry f()\n{\n.reg .b32 %r<3>;\nmov.b32 %r0, 0x04830201;\nmov.b32 %r1, 0x88F70605;\n"
        f"prmt.b32 %r2, %r0, %r1, {selector};\nret;\n}}"
    )
    faults: Counter[str] = Counter()
    block = Block(parse(text, 0, 1), [], GlobalMemory(faults), faults)
    block.run((0, 0, 0), (1, 1, 1))
    assert set(block.registers["%r2"].tolist()) == {want}
