"""What the Triton kernels are launched with, where no number of a small test would show it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import triton
from test_tree_recurrences import FLOAT, KINDS

from instsel.kernels import TreeNodes, TreeSegments, backends, linear_logprob, tree_attention


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Kernels' names and constants; nothing runs."""
    found: list[tuple[str, dict[str, Any]]] = []

    def launched(kernel: Any, grid: Any) -> Any:
        return lambda *arguments, **constants: found.append((kernel.fn.__name__, constants))

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", launched)
    monkeypatch.setattr(backends, "triton_interpreted", lambda: True)
    return found


def test_float32_products_are_asked_for_in_full(launches: list[tuple[str, dict[str, Any]]]) -> None:
    """By default Triton rounds their factors to TF32, which the interpreter does not."""
    x, index = torch.zeros(5, 2, 16), torch.zeros(5, dtype=torch.int64)
    tree_attention(x, x, x, TreeSegments.from_lists([0, 2, 5], [[], [(0, 2)]]), backend="triton")
    linear_logprob(x[:, 0], x[:, 1], index, index, backend="triton", fused=True)
    for kind in ("delta rule", "scan"):
        KINDS[kind](TreeNodes.from_lists([0, 3, 5], [-1, 0], 0), FLOAT).run("triton")
    with_products = {"tree_attention_kernel", "linear_states_kernel", "tree_recurrence_kernel"}
    assert {name for name, constants in launches if "precision" in constants} == with_products
    assert all(constants.get("precision", "ieee") == "ieee" for _, constants in launches)


def test_segments_are_laid_out_once_for_all_layers(launches: list[tuple[str, dict[str, Any]]]) -> None:
    x, segments = torch.zeros(5, 2, 16), TreeSegments.from_lists([0, 2, 5], [[], [(0, 2)]])
    tree_attention(x, x, x, segments, backend="triton")
    plans = {place: [id(array) for array in arrays] for place, arrays in segments.plans.items()}
    tree_attention(x, x, x, segments, backend="triton")
    assert plans and plans == {place: [id(array) for array in arrays] for place, arrays in segments.plans.items()}
    assert len(launches) == 2
