"""What the Triton kernels are launched with, where no number of a small test would show it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")
import compiled_kernels
import triton
from test_tree_recurrences import FLOAT, KINDS

from instsel.kernels import TreeNodes, TreeSegments, backends, linear_logprob, tree_attention, triton_linear_logprob
from instsel.kernels import triton_configurations as configurations
from instsel.kernels.triton_linear_states import linear_states_kernel
from instsel.kernels.triton_row_blocks import device_arrays
from instsel.kernels.triton_tree_attention import tree_attention_kernel
from instsel.kernels.triton_tree_convolution import _plan as convolution_plan
from instsel.kernels.triton_tree_levels import tree_levels
from instsel.kernels.triton_unseen_values import unseen_values_kernel


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


@pytest.mark.parametrize("kernel", [tree_attention_kernel, unseen_values_kernel, linear_states_kernel])
def test_a_launch_compiles_what_the_tests_compile(kernel: Any) -> None:
    """Triton compiles another kernel where it may take a number for a multiple of 16: those of which the compiled
    tests do not say so are not to be looked at."""
    tensors = {"hidden", "weight", "query", "key", "value", "result", *compiled_kernels.POINTERS}
    numbers = {one.name for one in kernel.params if not one.is_constexpr} - tensors - set(compiled_kernels.NUMBERS)
    told = {name for name in numbers if compiled_kernels.is_multiple(name)}
    assert len(told) >= 2 and numbers - told == {one.name for one in kernel.params if one.do_not_specialize} - told


def test_the_wide_tile_with_arg_max_is_taken_where_it_spills_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"argmax": True, "transformed": False, "size": 4096}
    monkeypatch.setattr(configurations, "architecture", lambda device: "sm_90")
    for version, width in ((None, 256), ("3.9.0", 128)):
        monkeypatch.setattr(configurations, "version_outside", lambda name, versions, found=version: found)
        configurations.linear_tile.cache_clear()
        found = [
            configurations.linear_configuration(torch.device("cuda"), torch.bfloat16, **asked | other).block_v
            for other in ({}, {"argmax": False}, {"transformed": True}, {"size": 4104})
        ]
        assert found == [width, 256, 128, 128]
    configurations.linear_tile.cache_clear()


@pytest.mark.parametrize("option", ["none", "bias", "scale", "cap"])
def test_a_head_with_anything_after_the_product_is_not_plain(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def configuration(device: torch.device, dtype: torch.dtype, **asked: Any) -> Any:
        seen.append(asked["transformed"])
        assert asked["argmax"] and asked["size"] == 16
        return configurations.INTERPRETED_LINEAR

    launched: Any = lambda kernel, grid: lambda *given, **constants: None  # noqa: E731
    monkeypatch.setattr(triton.runtime.jit.JITFunction, "__getitem__", launched)
    monkeypatch.setattr(backends, "triton_interpreted", lambda: True)
    monkeypatch.setattr(triton_linear_logprob, "linear_configuration", configuration)
    x, index = torch.zeros(5, 16), torch.zeros(5, dtype=torch.int64)
    options = {"none": {}, "bias": {"bias": torch.zeros(5)}, "scale": {"scale": 0.5}, "cap": {"softcap": 30.0}}[option]
    linear_logprob(x, x, index, index, argmax=True, backend="triton", fused=True, **options)
    assert seen == [option != "none"]


def test_segments_are_laid_out_once_for_all_layers(launches: list[tuple[str, dict[str, Any]]]) -> None:
    x, segments = torch.zeros(5, 2, 16), TreeSegments.from_lists([0, 2, 5], [[], [(0, 2)]])
    tree_attention(x, x, x, segments, backend="triton")
    plans = {place: [id(array) for array in arrays] for place, arrays in segments.plans.items()}
    tree_attention(x, x, x, segments, backend="triton")
    assert plans and plans == {place: [id(array) for array in arrays] for place, arrays in segments.plans.items()}
    assert len(launches) == 4
    tree_attention(x, x, x, segments, backend="triton", find_again=False)
    assert [name for name, _ in launches[3:]] == ["unseen_values_kernel", "tree_attention_kernel"]


def test_plans_are_of_their_device() -> None:
    segments, nodes = TreeSegments.from_lists([0, 2, 5], [[], [(0, 2)]]), TreeNodes.from_lists([0, 2, 5], [-1, 0], 0)
    for device in (torch.device("cpu"), torch.device("meta")):
        levels = tree_levels(nodes, [1], 16, device)
        found = [*device_arrays(segments, device, 1, 16), levels.first, *convolution_plan(nodes, 4, device)]
        assert {array.device for array in found} == {device}


def test_plans_are_of_the_nodes_that_are_kept() -> None:
    nodes = TreeNodes.from_lists([0, 2, 5], [-1, 0], 0)
    for keep in ([1], [0], [1, 0]):
        levels = tree_levels(nodes, keep, 16, torch.device("cpu"))
        assert levels.kept.tolist() == [keep.index(node) if node in keep else -1 for node in (0, 1)]
