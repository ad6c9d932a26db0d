"""What Triton compiles for sm_80, sm_86 and sm_90, executed and compared with float64: see tests/ptx.

Nothing may be read or written outside of a tensor, before it is written or waited for, or by two warps with no barrier
between them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_tree_recurrences import FLOAT, HALF, KINDS, TOLERANCE, difference

pytest.importorskip("triton")
from emulated_kernels import gpu
from kernel_checks import (
    HEADS,
    check_attention,
    check_far_layers,
    check_far_weights,
    check_layers,
    check_linear,
    check_rows,
    check_unseen_values,
)

from instsel.kernels import TreeNodes

BFLOAT = torch.bfloat16
CAPABILITIES = (80, 86, 90)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window and cap": {"window": 24, "softcap": 6.0, "scaling": 0.3},
    "sinks": {"window": 40, "sinks": torch.tensor([-1e30, 0.0, 30.0, -3.0, 1e4, 2.5])},
}
LENGTHS, PARENTS = [18, 0, 20, 3, 17], [-1, 0, 1, 0, -2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("triton")


def check_recurrence(kind: str, dtype: torch.dtype, lengths: list[int], parents: list[int]) -> None:
    begin = torch.tensor([0, *lengths]).cumsum(0).tolist()
    one = KINDS[kind](TreeNodes.from_lists(begin, parents, 1), dtype)
    want, ends = one.want()
    kept = list(dict.fromkeys([len(lengths) - 1, 0, 2, 1]))
    out, states = one.run("triton", keep=kept)
    assert difference(out, want) <= TOLERANCE[dtype]
    assert difference(states, [ends[node] for node in kept]) <= TOLERANCE[dtype]


@pytest.mark.long
@pytest.mark.parametrize(("capability", "dtype", "head", "options"), [
    pytest.param(80, BFLOAT, 64, "plain", marks=pytest.mark.slow),  # as test_emulated_faults has it
    (90, torch.float16, 64, "window and cap"),
])  # fmt: skip
def test_attention(capability: int, dtype: torch.dtype, head: int, options: str, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_attention((6, 2, head), dtype, **OPTIONS[options])
    assert device.launches == ["tree_attention_kernel", "unseen_values_kernel"] and not device.faults


@pytest.mark.long
@pytest.mark.parametrize(("capability", "dtype", "head"), [
    (90, BFLOAT, "bias and scale"),
])  # fmt: skip
def test_heads(capability: int, dtype: torch.dtype, head: str, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_linear((17, 136, 2301), head, dtype, fused=True, apart=130)
        check_rows((5, 8300), head, dtype)
    assert len(set(device.launches)) == 6 and not device.faults


@pytest.mark.long
@pytest.mark.parametrize("kind", ["convolution", "scan"])
def test_recurrences(kind: str, cache: Path) -> None:
    with gpu(90, cache) as device:
        check_recurrence(kind, HALF, [17, 0, 2, 3], PARENTS[:4])  # one node of two chunks
    assert device.launches and not device.faults


@pytest.mark.long
def test_layers(cache: Path) -> None:
    """In bfloat16, which Triton's interpreter cuts off where a GPU rounds it."""
    with gpu(90, cache) as device:
        check_layers(BFLOAT)
    assert set(device.launches) == {"layer_norm_kernel", "layer_rotary_kernel", "layer_gate_kernel"}
    assert not device.faults


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_layers(capability: int, dtype: torch.dtype, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_layers(dtype)
        check_far_layers(dtype)
    assert not device.faults


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_weight_beyond_32_bits(capability: int, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_far_weights(550, BFLOAT)
    assert not device.faults


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", [64, 128, 256, 40])
@pytest.mark.parametrize("options", list(OPTIONS))
def test_every_attention(capability: int, dtype: torch.dtype, head: int, options: str, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_attention((6, 2, head), dtype, **OPTIONS[options])
        check_unseen_values((6, 2, head), dtype, **OPTIONS[options])
    assert not device.faults


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head", list(HEADS))
def test_every_head(capability: int, dtype: torch.dtype, head: str, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_linear((150, 136, 2301), head, dtype, fused=True, apart=130)
        check_linear((17, 128, 4500), head, dtype, fused=True, apart=300)
        check_linear((17, 128, 4500), head, dtype, fused=False, apart=300)
        check_rows((7, 8300), head, dtype)
        check_rows((7, 1000), head, dtype)
    assert not device.faults


@pytest.mark.slow
@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_recurrence(capability: int, dtype: torch.dtype, kind: str, cache: Path) -> None:
    with gpu(capability, cache) as device:
        check_recurrence(kind, dtype, LENGTHS, PARENTS)
    assert not device.faults
