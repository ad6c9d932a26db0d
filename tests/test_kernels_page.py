"""Whose matrix products docs/reference/kernels.md says that a processor takes, against the calls that torch gets."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import instruction_sets
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from instsel.kernels import TreeSegments, linear_logprob, tree_attention

PAGE = (Path(__file__).parents[1] / "docs/reference/kernels.md").read_text(encoding="utf-8")
PRODUCTS = re.compile(r"\w+\.(mm|addmm|bmm|baddbmm|matmul|linear|_linear_pointwise|_scaled_dot_product\w*)\b")


class Products(TorchDispatchMode):
    """Notes the operators of torch that multiply matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), options: Any = None) -> Any:
        if PRODUCTS.match(str(function)):
            self.seen.add(str(function))
        return function(*given, **(options or {}))


def head(dtype: torch.dtype) -> None:
    rows, targets = torch.tensor([0, 2]), torch.tensor([1, 98])
    linear_logprob(torch.ones(3, 64, dtype=dtype), torch.ones(99, 64, dtype=dtype), rows, targets, backend="cpu")


def attention(size: int) -> Callable[[torch.dtype], None]:
    def attend(dtype: torch.dtype) -> None:
        query, key = torch.ones(5, 2, size, dtype=dtype), torch.ones(5, 1, size, dtype=dtype)
        segments = TreeSegments.from_lists([0, 3, 5], [[], [(0, 3)]])
        tree_attention(query, key, key, segments, backend="cpu")

    return attend


COLUMNS = {"`linear_logprob`": head, "`tree_attention`": attention(64), "heads wider than 256": attention(320)}


def table(page: str) -> dict[str, dict[str, str]]:
    """What a page says by instruction set and column: "own" or "torch's"."""
    lines = page[page.index("| instruction set |") :].partition("\n\n")[0].splitlines()
    names = [cell.strip() for cell in lines[0].strip("|").split("|")][1:]
    said = {}
    for line in lines[2:]:
        sets, *cells = line.strip("|").split("|")
        for name in re.findall(r"`(\w+)`", sets):
            said[name] = {at: cell.strip().partition(":")[0] for at, cell in zip(names, cells, strict=True)}
    return said


def test_the_table_has_all_instruction_sets_and_operations() -> None:
    assert set(table(PAGE)) == set(instruction_sets.NAMES)
    assert all(set(row) == set(COLUMNS) for row in table(PAGE).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", instruction_sets.NAMES)
def test_products_are_taken_from_where_the_page_says(name: str, column: str, dtype: torch.dtype) -> None:
    with instruction_sets.forced(name), Products() as products:
        COLUMNS[column](dtype)
    assert table(PAGE)[name][column] == ("torch's" if products.seen else "own"), products.seen


def test_the_products_of_torch_are_seen() -> None:
    """The control: both of the libraries by which torch multiplies, and what is no product."""
    ones = torch.ones(16, 16)
    for call, seen in (
        (lambda: torch.mm(ones, ones), True),
        (lambda: torch.nn.functional.linear(ones, ones), True),
        (lambda: torch.ops.mkldnn._linear_pointwise(ones, ones, None, "none", [], ""), True),
        (lambda: torch.nn.functional.scaled_dot_product_attention(ones, ones, ones), True),
        (lambda: ones.to(torch.float64).sum(), False),
    ):
        with Products() as products:
            call()
        assert bool(products.seen) == seen, products.seen
