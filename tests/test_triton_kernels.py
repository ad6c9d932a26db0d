"""The Triton kernels without a GPU: interpreted against float64, and compiled ahead of time for five targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_process import INTERPRETED, assert_passes

from instsel.kernels.triton_configurations import architecture

pytest.importorskip("triton")
HERE = Path(__file__).parent
ARCHITECTURES = ("sm_80", "sm_86", "sm_90", "sm_120", "gfx942")
# KiB of shared memory that one program may have: CUDA programming guide, technical specifications per capability.
SHARED = {"sm_80": 163, "sm_86": 99, "sm_90": 227, "sm_120": 99, "gfx942": 64}


@pytest.mark.long
@pytest.mark.parametrize("script", ["interpreted_attention.py", "interpreted_head.py"])
def test_interpreted(script: str) -> None:
    """In a process of its own: the interpreter stays on once it is on."""
    assert_passes(script, INTERPRETED)


@pytest.mark.long
@pytest.mark.parametrize("script", ["gpu_rehearsal.py", "gpu_kernel_rehearsal.py"])
def test_rehearsal_on_a_gpu_without_numbers(script: str) -> None:
    """In a process of its own, which takes a GPU for granted from then on."""
    assert_passes(script)


def compiled(
    architecture: str, groups: str = "", script: str = "compiled_kernels.py", triton: Path | None = None
) -> list[dict[str, object]]:
    """What a script of kernels prints, compiled by the Triton of a folder or the one that is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if triton is not None:
        environment["PYTHONPATH"] = str(triton)
    command = [sys.executable, str(HERE / script), architecture, *([groups] if groups else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows: list[dict[str, object]], architecture: str) -> None:
    assert rows
    for row in rows:
        assert row["shared_bytes"] <= 1024 * SHARED[architecture], row  # type: ignore[operator]
        if architecture != "gfx942":
            assert row["spill_bytes"] == 0, row
        assert row["waits"] <= row["asked_waits"], row  # type: ignore[operator]
        name = str(row["name"])
        # A tile of 32 rows is too low for Hopper's own instructions.
        has_products = name.startswith(("linear_states 2", "tree_attention 2")) and " 32 rows" not in name
        # 16-bit products must use Hopper's own matrix instructions there, and exist nowhere else.
        assert row["wgmma"] == (has_products and architecture == "sm_90"), row


def test_tiles_follow_the_shared_memory_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """By compute capability: what a program may have of it, in KiB, is in the CUDA programming guide."""
    kib = {(7, 5): 64, (8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}
    names = {64: "sm_80", 163: "sm_80", 99: "sm_86", 227: "sm_90"}
    for capability, memory in kib.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None, found=capability: found)
        assert architecture(torch.device("cuda")) == names[memory], capability


@pytest.mark.long
@pytest.mark.parametrize("group", ["linear", "small"])
def test_compiled_for_hopper(group: str) -> None:
    check(compiled("sm_90", group), "sm_90")


def test_a_wait_for_each_product_is_seen() -> None:
    """What the assembler made of 128 rows times 32 keys at heads of 128: 20 waits for 4 groups of products."""
    row: dict[str, object] = {"name": "tree_attention 2 128 plain 128 rows", "shared_bytes": 65_536, "spill_bytes": 0}
    row |= {"wgmma": True, "waits": 4, "asked_waits": 4}
    check([row], "sm_90")
    with pytest.raises(AssertionError, match="20 <= 4"):
        check([row | {"waits": 20}], "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("group", ["small", "linear", "linear_variants", "attention", "attention_variants"])
def test_every_configuration_compiles_without_spills(group: str, architecture: str) -> None:
    check(compiled(architecture, group), architecture)
