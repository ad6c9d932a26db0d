"""Convolutions and recurrences along a tree in Triton without a GPU: interpreted, and compiled for five targets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from own_process import INTERPRETED, assert_passes

pytest.importorskip("triton")
from recurrence_paths import random_nodes
from test_triton_kernels import ARCHITECTURES, SHARED

from instsel.kernels import triton_tree_levels

HERE = Path(__file__).parent


@pytest.mark.parametrize("scratch", [2, 64])
@pytest.mark.parametrize("seed", range(6))
def test_a_state_is_read_before_its_place_is_written_again(
    seed: int, scratch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of a launch run in any order: the interpreter, which runs one after another, would not see it."""
    monkeypatch.setattr(triton_tree_levels, "SCRATCH", scratch)
    nodes = random_nodes(seed, count=40, num_initial=2)
    levels = triton_tree_levels.tree_levels(nodes, [3, 1], 4, torch.device("cpu"))
    first, last, origin, place, kept = (tensor.tolist() for tensor in levels[1:6])
    found = {
        (start, stop): node for node, (start, stop) in enumerate(zip(nodes.offsets, nodes.offsets[1:], strict=False))
    }
    held: dict[int, tuple[int, int]] = {}  # the tokens of the node whose state a place has
    seen = []
    for start, stop in levels.launches:
        entries = range(start, stop)
        written = [place[i] for i in entries if place[i] >= 0]
        assert len(set(written)) == len(written) and all(p < levels.num_places for p in written)
        assert not set(written) & {origin[i] for i in entries}
        for i in entries:
            seen.append((first[i], last[i]))
            assert last[i] - first[i] <= 4 or place[i] >= 0
            if origin[i] >= 0:
                parent = nodes.parents[found[first[i], last[i]]]
                assert first[i] == last[i] or held[origin[i]] == tuple(nodes.offsets[parent : parent + 2])
        held.update({place[i]: (first[i], last[i]) for i in entries})
    assert sorted(seen) == sorted(zip(nodes.offsets[:-1].tolist(), nodes.offsets[1:].tolist(), strict=True))
    of = {kept[i]: (first[i], last[i]) for i in range(len(nodes))}
    assert [of[0], of[1]] == [tuple(nodes.offsets[node : node + 2]) for node in (3, 1)]


@pytest.mark.long
def test_interpreted() -> None:
    """In a process of its own: the interpreter stays on once it is on."""
    assert_passes("interpreted_recurrences.py", INTERPRETED)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_without_spills(architecture: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(HERE / "compiled_recurrences.py"), architecture]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 9
    for row in rows:
        assert row["spill_bytes"] == 0, row
        assert row["shared_bytes"] <= 1024 * SHARED[architecture], row
