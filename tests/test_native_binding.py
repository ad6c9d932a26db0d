"""What the C++ module must refuse, as `make fuzz` found: what once broke memory, the process or a result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from instsel.kernels import _native


def row_arguments(rows: int = 3, columns: int = 5) -> dict[str, Any]:
    """Right arguments of row_logprob: the log-sum-exp of each row is log(columns)."""
    return {
        "logits": np.zeros((rows, columns), np.float32),
        "rows": np.arange(rows),
        "targets": np.zeros(rows, np.int64),
        "mask": None,
        "bias": None,
        "scale": 1.0,
        "softcap": 0.0,
        "logprobs": np.zeros(rows, np.float32),
        "logsumexps": np.zeros(rows, np.float32),
        "argmax": np.zeros(rows, np.int64),
        "threads": 1,
        "instruction_set": "",
    }


def product_arguments(depth: int = 4) -> dict[str, Any]:
    """Right arguments of linear_logsumexp."""
    states = {"max": np.full(2, -np.inf, np.float32), "sum": np.zeros(2), "argmax": None}
    arrays = {"hidden": np.zeros((2, depth), np.uint16), "weight": np.zeros((3, depth), np.uint16)}
    return {**arrays, "bias": None, "scale": 1.0, "softcap": 0.0, **states, "threads": 1, "instruction_set": ""}


def tree_arguments() -> dict[str, Any]:
    """Right arguments of float_tree_attention: one node of two tokens, whose values are all one."""
    tensors = {name: np.ones((2, 1, 4), np.float32) for name in ("query", "key", "value")}
    plan = {"query_offsets": [0, 2], "range_start": [0], "range_stop": [2], "range_block": [0, 1]}
    plan |= {"path_offsets": [0, 1], "path_ranges": [0]}
    arrays = {name: np.array(values, np.int32) for name, values in plan.items()}
    numbers = {"scaling": 1.0, "softcap": 0.0, "window": 0, "sinks": None, "threads": 1, "instruction_set": ""}
    return {**tensors, "out": np.zeros((2, 1, 4), np.float32), **arrays, **numbers}


def test_the_arguments_that_are_changed_below_are_right() -> None:
    rows = row_arguments()
    _native.row_logprob(**rows)
    assert np.allclose(rows["logsumexps"], np.log(5.0)) and np.allclose(rows["logprobs"], -np.log(5.0))
    product = product_arguments()
    _native.linear_logsumexp(**product)
    assert np.allclose(product["max"] + np.log(product["sum"]), np.log(3.0))
    tree = tree_arguments()
    _native.float_tree_attention(**tree)
    assert np.allclose(tree["out"], 1.0)


@pytest.mark.parametrize("threads", [0, -1, 4097, 2**31 - 1])
def test_a_number_of_threads_that_openmp_cannot_start(threads: int) -> None:
    x = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match="threads: expected 1 to 4096"):
        _native.row_logprob(**{**row_arguments(), "threads": threads})
    with pytest.raises(ValueError, match="threads: expected 1 to 4096"):
        _native.gate_in_place(x, x.copy(), "silu", threads, "")


@pytest.mark.parametrize("written", ["argmax", "logprobs", "logsumexps"])
@pytest.mark.parametrize("read", ["rows", "targets", "logits"])
def test_results_over_the_indices_that_were_checked(written: str, read: str) -> None:
    arguments = row_arguments()
    memory = arguments[read].reshape(-1).view(np.uint8)
    arguments[written] = memory[: arguments[written].nbytes].view(arguments[written].dtype)
    before = memory.copy()
    with pytest.raises(ValueError, match=f"{written}: expected memory apart from {read}"):
        _native.row_logprob(**arguments)
    assert np.array_equal(memory, before)


@pytest.mark.parametrize("read", ["query", "key", "value"])
def test_attention_over_its_own_inputs(read: str) -> None:
    arguments = tree_arguments()
    arguments["out"] = arguments[read]
    with pytest.raises(ValueError, match=f"out: expected memory apart from {read}"):
        _native.float_tree_attention(**arguments)


def test_layer_operations_over_their_own_inputs() -> None:
    x = np.ones((2, 4), np.float32)
    with pytest.raises(ValueError, match="x: expected memory apart from up"):
        _native.gate_in_place(x, x, "silu", 1, "")
    with pytest.raises(ValueError, match="out: expected memory apart from x"):
        _native.layer_norm(x, np.ones(4, np.float32), None, 0.0, 1e-5, False, True, x, 1, "")
    bias = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="out: expected memory apart from bias"):
        _native.layer_norm(x[:1], x[1], bias, 0.0, 1e-5, False, False, bias[None], 1, "")
    assert (x == 1.0).all()


@pytest.mark.parametrize("name", ["logits", "rows", "targets", "logprobs", "logsumexps", "argmax"])
def test_elements_at_odd_addresses(name: str) -> None:
    arguments = row_arguments()
    array = arguments[name]
    arguments[name] = np.ndarray(array.shape, array.dtype, np.zeros(array.nbytes + 1, np.uint8), offset=1)
    with pytest.raises(ValueError, match=f"{name}: expected aligned elements"):
        _native.row_logprob(**arguments)


def test_another_byte_order_is_not_read_as_this_one() -> None:
    arguments = row_arguments()
    arguments["logits"] = arguments["logits"].astype(arguments["logits"].dtype.newbyteorder())
    with pytest.raises(ValueError, match="logits: expected this processor's byte order"):
        _native.row_logprob(**arguments)


@pytest.mark.parametrize("dtype", ["int32", "uint32"])
def test_layer_arrays_of_another_type_with_the_same_size(dtype: str) -> None:
    x = np.ones((2, 4), np.float32)
    for wrong in ("bias", "weight", "out"):
        arrays = {"bias": np.ones(4, np.float32), "weight": np.ones(4, np.float32), "out": x.copy()}
        arrays[wrong] = arrays[wrong].astype(dtype)
        with pytest.raises(ValueError, match=f"{wrong}: expected"):
            _native.layer_norm(x, arrays["weight"], arrays["bias"], 0.0, 1e-5, True, False, arrays["out"], 1, "")


@pytest.mark.parametrize("name", ["mask", "bias", "argmax"])
def test_optional_arrays_that_are_something_else(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: expected a NumPy array or None"):
        _native.row_logprob(**{**row_arguments(), name: [1.0, 2.0]})


@pytest.mark.parametrize("first_column", [-1, 2**63 - 1])
def test_columns_outside_any_vocabulary(first_column: int) -> None:
    states = np.full(2, -np.inf, np.float32), np.zeros(2), np.full(2, -1)
    with pytest.raises(ValueError, match="first_column"):
        _native.accumulate(np.zeros((2, 3), np.float32), first_column, None, 1.0, 0.0, *states, 1, "")


@pytest.mark.parametrize("name", ["avx9", "AVX2", "avx2 ", "plain\0"])
def test_an_instruction_set_of_no_processor(name: str) -> None:
    with pytest.raises(ValueError, match='instruction_set: expected "", "plain"'):
        _native.choose_instruction_set(name)


@pytest.mark.parametrize("name", ["plain", "avx2", "avx512"])
def test_bfloat16_products_that_an_instruction_set_does_not_have(name: str) -> None:
    bits = {name: np.zeros(shape, np.uint16) for name, shape in (("x", (2, 32)), ("weight", (3, 32)), ("out", (2, 3)))}
    linear = {**bits, "bias": None, "add": False, "threads": 1}
    with pytest.raises(ValueError, match=r"instruction_set: (expected avx512_bf16 or amx|this processor has no)"):
        _native.bfloat16_linear(**linear, instruction_set=name)


def test_hidden_states_of_no_size_do_not_divide_by_it() -> None:
    with pytest.raises(ValueError, match="hidden: expected at least one column"):
        _native.linear_logsumexp(**product_arguments(depth=0))


def test_a_vocabulary_beyond_the_range_of_its_indices() -> None:
    arguments = product_arguments()
    arguments["weight"] = np.broadcast_to(arguments["weight"][:1], (2**40, 4))
    with pytest.raises(ValueError, match="weight: expected fewer than"):
        _native.linear_logsumexp(**arguments)


@pytest.mark.parametrize("stride", [2**62, -(2**62), 3])
def test_the_stride_of_a_single_row_is_never_used(stride: int) -> None:
    arguments = product_arguments()
    arguments |= {"max": arguments["max"][:1], "sum": arguments["sum"][:1]}
    arguments["hidden"] = as_strided(arguments["hidden"], (1, 4), (stride, 2))
    _native.linear_logsumexp(**arguments)
    assert np.allclose(arguments["max"] + np.log(arguments["sum"]), np.log(3.0))


def test_windows_from_none_to_endless() -> None:
    arguments = tree_arguments()
    with pytest.raises(ValueError, match="window"):
        _native.float_tree_attention(**{**arguments, "window": -1})
    _native.float_tree_attention(**{**arguments, "window": 2**63 - 1})
    assert np.allclose(arguments["out"], 1.0)


@pytest.mark.parametrize("sizes", [(-1, 1, 64), (1, -1, 64), (2**62, 4, 64), (1, 2**60, 64), (1, 1, 2**62)])
def test_a_workspace_that_no_layout_needs(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="expected 0 to"):
        _native.bfloat16_tree_attention_workspace(*sizes)


def test_rows_of_nothing_are_not_counted_one_by_one() -> None:
    many = np.empty((2**50, 0), np.float32)
    _native.layer_norm(many, np.empty(0, np.float32), None, 0.0, 1e-5, False, False, many.copy(), 1, "")
    heads, table = np.empty((2**50, 2, 0), np.float32), many.copy()
    _native.rotate_in_place(heads, table, table, False, 1, "")
    assert many.size == heads.size == 0
