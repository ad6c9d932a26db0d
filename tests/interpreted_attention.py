"""Attention in Triton under its interpreter, against float64; test_triton_kernels.py runs this file by itself.

The interpreter must be on before Triton is imported, and would stay on for every other test of the same process. Tiles
are small there (triton_configurations.INTERPRETED_*), so that small shapes cross their borders. bfloat16 is left out:
the interpreter's tl.dot gives garbage for it.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import pytest
import test_tree_attention as tree
import test_unseen_tokens as unseen
import torch
from kernel_checks import FAR, check_attention, check_unseen_values, far_apart, with_gaps

from instsel.kernels import TreeSegments, tree_attention

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # -inf - -inf is meant
DTYPES = (torch.float32, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", list(tree.OPTIONS))
@pytest.mark.parametrize("shape", [(3, 1, 16), (2, 2, 24)], ids=str)
def test_tree_attention(shape: tuple[int, int, int], options: str, dtype: torch.dtype) -> None:
    small = ([0, 20, 31, 31, 50], [[(0, 7)], [(0, 7), (7, 27)], [], []], 7)
    query, key, value = tree.tensors(small, shape, dtype)
    segments = TreeSegments.from_lists(small[0], small[1])
    exact = tree.oracle(query, key, value, small, **tree.OPTIONS[options])
    low = tree.naive(query, key, value, small, **tree.OPTIONS[options])
    got = tree_attention(query, key, value, segments, backend="triton", **tree.OPTIONS[options])
    tree.assert_within_budget(got, exact, low)
    # By the first pass already: the second one, which looks for what is not finite, has nothing to mend.
    once = tree_attention(query, key, value, segments, backend="triton", find_again=False, **tree.OPTIONS[options])
    assert torch.equal(once, got)
    value[12, 0, 3] = float("inf")
    once = tree_attention(query, key, value, segments, backend="triton", find_again=False, **tree.OPTIONS[options])
    mended = tree_attention(query, key, value, segments, backend="triton", **tree.OPTIONS[options])
    assert torch.equal(mended[once.isfinite()], once[once.isfinite()])
    assert mended.isfinite().sum() > once.isfinite().sum()


def test_heads_whose_numbers_lie_apart() -> None:
    query, key, value = tree.tensors(([0, 5, 9], [[], [(0, 5)]], 0), (2, 1, 16), torch.float32)
    segments = TreeSegments.from_lists([0, 5, 9], [[], [(0, 5)]])
    value[2, 0, 3] = float("inf")  # found again from the same numbers
    expected = tree_attention(query, key, value, segments, backend="triton")
    for apart in ((with_gaps(query), key, value), (query, with_gaps(key), value), (query, key, with_gaps(value))):
        assert torch.equal(tree_attention(*apart, segments, backend="triton"), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", ["plain", "window and cap"])
def test_tree_attention_with_sinks(options: str, dtype: torch.dtype) -> None:
    small = ([0, 20, 31, 31, 50], [[(0, 7)], [(0, 7), (7, 27)], [], []], 7)
    query, key, value = tree.tensors(small, (6, 2, 16), dtype)
    asked = {**tree.OPTIONS[options], "sinks": torch.tensor([-1e30, 0.0, 30.0, -3.0, 1e4, 2.5])}
    segments = TreeSegments.from_lists(small[0], small[1])
    exact = tree.oracle(query, key, value, small, **asked)
    got = tree_attention(query, key, value, segments, backend="triton", **asked)
    tree.assert_within_budget(got, exact, tree.naive(query, key, value, small, **asked))
    value[8, 0, 3] = float("inf")  # found again without what a row does not see
    after = tree_attention(query, key, value, segments, backend="triton", **asked)
    unseen_rows = ~unseen.seen_by(small, asked.get("window"))[:, 8]
    assert torch.isfinite(after[unseen_rows]).all()
    torch.testing.assert_close(after[unseen_rows], got[unseen_rows], atol=4 * torch.finfo(dtype).eps, rtol=0)


def test_a_tree_beside_another_keeps_its_bits() -> None:
    query, key, value = tree.tensors(([0, 60], [], 0), (2, 1, 16), torch.float16)
    both = TreeSegments.from_lists([0, 10, 33, 60], [[], [(0, 10)], []])
    alone = TreeSegments.from_lists([0, 27], [[]])
    together = tree_attention(query, key, value, both, backend="triton")
    apart = tree_attention(query[33:], key[33:], value[33:], alone, backend="triton")
    assert torch.equal(together[33:], apart)


@pytest.mark.parametrize(("options", "dtype"), [("plain", torch.float32), ("window and cap", torch.float16)], ids=str)
def test_unseen_tokens_contribute_nothing(options: str, dtype: torch.dtype) -> None:
    """An infinite value and a NaN among the keys: rows before them in their node, and other nodes, are as without."""
    given_tree, chosen = ([0, 9, 14], [[(0, 2)], [(0, 2), (2, 6)]], 2), tree.OPTIONS[options]
    segments = TreeSegments.from_lists(*given_tree[:2])
    query, key, value = tree.tensors(given_tree, (2, 1, 12), dtype)
    before = tree_attention(query, key, value, segments, backend="triton", **chosen)
    value[8, 0, 3], key[14, 0, 5] = float("inf"), float("nan")
    after = tree_attention(query, key, value, segments, backend="triton", **chosen)
    seen = unseen.seen_by(given_tree, chosen.get("window"))
    expected = before.clone()
    expected[seen[:, 8], :, 3] = float("inf")
    expected[seen[:, 14]] = float("nan")
    torch.testing.assert_close(after, expected, atol=4 * torch.finfo(dtype).eps, rtol=0, equal_nan=True)


def test_places_beyond_32_bits() -> None:
    """Queries, keys and values whose elements are more than 2**31 from the first."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(torch.bfloat16)  # noqa: E731
    segments = TreeSegments.from_lists([0, 2, 3], [[], [(0, 2)]])
    query, key, value = draw(3, 2, 16), draw(3, 1, 16), draw(3, 1, 16)
    expected = tree_attention(query, key, value, segments, backend="triton")
    found = tree_attention(*(far_apart(one, FAR) for one in (query, key, value)), segments, backend="triton")
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 2, 16), torch.float16), ((3, 3, 24), torch.float32)], ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 4, "softcap": 6.0, "scaling": 0.3}], ids=str)
def test_attention_of_other_strides(shape: tuple[int, int, int], options: dict[str, Any], dtype: torch.dtype) -> None:
    check_attention(shape, dtype, **options)
    if "window" in options:  # a key at a time takes long without
        check_unseen_values(shape, dtype, **options)
