"""The Triton kernels under Triton's interpreter, against float64; test_triton_kernels.py runs this file by itself.

The interpreter must be on before Triton is imported, and would stay on for every other test of the same process. Tiles
are small there (triton_configurations.INTERPRETED_*), so that small shapes cross their borders. bfloat16 is left out:
the interpreter's tl.dot gives garbage for it.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import pytest
import test_linear_logprob as linear
import test_row_logprob as row
import test_tree_attention as tree
import test_unseen_tokens as unseen
import torch
from accuracy import assert_within_budget
from kernel_checks import (
    HEADS,
    check_attention,
    check_far_weights,
    check_linear,
    check_rows,
    check_unseen_values,
    far_apart,
)

from instsel.kernels import (
    TreeSegments,
    linear_logprob,
    row_logprob,
    tree_attention,
    triton_linear_logprob,
    triton_pairs,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # log of 0 and -inf - -inf are meant
DTYPES = (torch.float32, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 8193), (2, 151_936)], ids=str)
@pytest.mark.parametrize("head", [{}, {"softcap": 8.0, "scale": 1.5}], ids=["plain", "cap"])
def test_row_logprob(shape: tuple[int, int], dtype: torch.dtype, head: dict[str, float]) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(shape) * 6).to(dtype)
    rows, targets = row.pairs(*shape, count=20)
    got = row_logprob(logits, rows, targets, argmax=True, backend="triton", **head)
    low = row.naive(logits.float(), rows, targets, **head)
    assert_within_budget(got.logprob, row.oracle(logits, rows, targets, **head), low)
    expected = row_logprob(logits, rows, targets, argmax=True, backend="reference", **head)
    assert got.argmax is not None and expected.argmax is not None
    assert "softcap" in head or torch.equal(got.argmax, expected.argmax)


@pytest.mark.parametrize("name", list(row.hard_rows()))
def test_row_logprob_of_hard_rows(name: str) -> None:
    logits = row.hard_rows()[name]
    targets = torch.tensor([0, 1, 4499, 4500, 4999])
    rows = torch.zeros_like(targets)
    got = row_logprob(logits, rows, targets, argmax=True, backend="triton")
    assert_within_budget(got.logprob, row.oracle(logits, rows, targets), row.naive(logits, rows, targets))
    assert got.argmax is not None and int(got.argmax) == int((logits[0] == logits.max()).int().argmax())


def test_rows_that_are_not_numbers() -> None:
    row.test_rows_that_are_not_numbers("triton")


def test_sequences_masks_and_unread_rows() -> None:
    row.test_sequences_masks_and_unread_rows("triton")


def test_pairs_out_of_range_become_nan() -> None:
    """On a GPU nothing may wait for the device, so the kernels see to it themselves (called below the checks)."""
    from instsel.kernels.triton_linear_logprob import linear_logprob as launch_linear
    from instsel.kernels.triton_row_logprob import row_logprob as launch_row

    rows, targets = torch.tensor([0, 5, -1, 0, 0, 0, 2]), torch.tensor([1, 1, 1, 99, -7, 10, 1])
    options: dict[str, Any] = {"mask": None, "bias": None, "scale": 1.0, "softcap": None, "argmax": False}
    results = launch_row(torch.randn(2, 10), rows, targets, **options)
    assert results.logprob.isnan().tolist() == [False, *[True] * 6]
    results = launch_linear(torch.randn(2, 8), torch.randn(10, 8), rows, targets, **options, fused="auto")
    assert results.logprob.isnan().tolist() == [False, *[True] * 6]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("head", ["plain", "cap and scale"])
@pytest.mark.parametrize("shape", [(0, 8, 5), (1, 8, 1), (3, 33, 2), (17, 40, 300)], ids=str)
def test_linear_logprob(shape: tuple[int, int, int], head: str, fused: bool, dtype: torch.dtype) -> None:
    hidden, weight, rows, targets = linear.problem(*shape, dtype)
    bias = torch.randn(shape[2]) if head != "plain" else None
    options = linear.HEADS[head]
    got = linear_logprob(
        hidden, weight, rows, targets, bias=bias, argmax=True, backend="triton", fused=fused, **options
    )
    exact, low = (
        linear.oracle(hidden, weight, rows, targets, bias, dtype=kind, **options)
        for kind in (torch.float64, torch.float32)
    )
    assert_within_budget(got.logprob, exact, low)
    assert got.argmax is not None and (shape[0] == 0 or bool((got.argmax >= 0).all()))


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_linear_logprob_of_a_head_with_nothing_but_a_scale(fused: bool) -> None:
    """As Granite's and Cohere's."""
    hidden, weight, rows, targets = linear.problem(3, 33, 70, torch.float32)
    got = linear_logprob(hidden, weight, rows, targets, scale=0.125, backend="triton", fused=fused)
    exact, low = (
        linear.oracle(hidden, weight, rows, targets, None, dtype=kind, scale=0.125)
        for kind in (torch.float64, torch.float32)
    )
    assert_within_budget(got.logprob, exact, low)


def test_linear_logprob_of_many_targets_on_one_row_and_of_sequences() -> None:
    hidden, weight, _, _ = linear.problem(3, 16, 90, torch.float16)
    targets = torch.arange(90)
    rows, mask = torch.ones_like(targets), torch.ones(90, dtype=torch.bool)
    mask[80:] = False
    offsets = torch.tensor([0, 40, 40, 80, 90])
    got = linear_logprob(hidden, weight, rows, targets, mask=mask, offsets=offsets, backend="triton")
    exact = linear.oracle(hidden, weight, rows, targets)
    assert abs(float(torch.logsumexp(got.logprob[:80], 0)) - float(torch.logsumexp(exact[:80], 0))) < 1e-5
    assert got.mean is not None
    torch.testing.assert_close(
        got.mean[[0, 2]], torch.stack([exact[:40].mean(), exact[40:80].mean()]), atol=1e-5, rtol=0
    )
    assert got.mean.isnan().tolist() == [False, True, False, True]


def test_a_batch_equals_its_rows_one_by_one() -> None:
    hidden, weight, rows, targets = linear.problem(20, 24, 200, torch.float16)
    together = linear_logprob(hidden, weight, rows, targets, backend="triton")
    zero = torch.zeros(1, dtype=torch.int64)
    for pair in (0, 7, 31):
        alone = linear_logprob(hidden[rows[pair], None], weight, zero, targets[pair, None], backend="triton")
        assert torch.equal(alone.logprob[0], together.logprob[pair])
    logits = torch.randn(20, 200)
    together = row_logprob(logits, rows, targets, backend="triton")
    alone = row_logprob(logits[rows[3], None], zero, targets[3, None], backend="triton")
    assert torch.equal(alone.logprob[0], together.logprob[3])


def test_sequences_end_with_the_pairs() -> None:
    """Offsets of a GPU are not read beforehand: those beyond the pairs count no number of somebody else's."""
    logprobs = -torch.arange(1.0, 9.0)
    sums, means = triton_pairs.sequence_sums(logprobs[:5], torch.tensor([0, 3, 8]), None)
    assert sums.tolist() == [-6.0, -9.0] and means.tolist() == [-2.0, -4.5]


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


def test_pairs_of_no_rows_become_nan() -> None:
    """No row is read in place of one that is not there."""
    from instsel.kernels.triton_linear_logprob import linear_logprob as launch_linear
    from instsel.kernels.triton_row_logprob import row_logprob as launch_row

    pairs = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, -1])
    options: dict[str, Any] = {"mask": None, "bias": None, "scale": 1.0, "softcap": None, "argmax": True}
    for mask in (None, torch.tensor([True, False, True])):
        options["mask"] = mask
        assert launch_row(torch.empty(0, 10), *pairs, **options).logprob.isnan().all()
        nothing_before = torch.empty(0, 2**40)[:, :8]  # a row before the first would be where no memory is
        assert launch_linear(nothing_before, torch.randn(10, 8), *pairs, **options, fused=True).logprob.isnan().all()


FAR = 3 * 2**29  # elements between rows: the third begins beyond what 32 bits hold


def test_places_beyond_32_bits() -> None:
    """Logits, hidden states, weights, queries and keys whose elements are more than 2**31 from the first."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(torch.bfloat16)  # noqa: E731
    rows, targets = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 1, 2, 0])
    logits, hidden, weight = draw(3, 40), draw(3, 32), draw(3, 32)
    near = row_logprob(logits, rows, targets, backend="triton")
    assert torch.equal(row_logprob(far_apart(logits, FAR), rows, targets, backend="triton").logprob, near.logprob)
    near = linear_logprob(hidden, weight, rows, targets, backend="triton")
    for apart in ((far_apart(hidden, FAR), weight), (hidden, far_apart(weight, FAR))):
        assert torch.equal(linear_logprob(*apart, rows, targets, backend="triton").logprob, near.logprob)
    segments = TreeSegments.from_lists([0, 2, 3], [[], [(0, 2)]])
    query, key, value = draw(3, 2, 16), draw(3, 1, 16), draw(3, 1, 16)
    expected = tree_attention(query, key, value, segments, backend="triton")
    found = tree_attention(*(far_apart(one, FAR) for one in (query, key, value)), segments, backend="triton")
    assert torch.equal(found, expected)


def test_a_weight_beyond_32_bits_in_the_main_loop() -> None:
    check_far_weights(64, torch.float16)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 2, 16), torch.float16), ((3, 3, 24), torch.float32)], ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 4, "softcap": 6.0, "scaling": 0.3}], ids=str)
def test_attention_of_other_strides(shape: tuple[int, int, int], options: dict[str, Any], dtype: torch.dtype) -> None:
    check_attention(shape, dtype, **options)
    if "window" in options:  # a key at a time takes long without
        check_unseen_values(shape, dtype, **options)


@pytest.mark.parametrize(
    ("head", "fused", "dtype"),
    [
        ("plain", True, torch.float32),
        ("bias and scale", True, torch.float16),
        ("bias, scale and cap", True, torch.float16),
        ("bias and scale", False, torch.float16),
        ("bias, scale and cap", False, torch.float32),
    ],
    ids=str,
)
def test_heads_in_passes_and_chunks(
    head: str, fused: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than a pass has and more of the vocabulary than a chunk, neither a multiple; equal maxima."""
    monkeypatch.setattr(triton_linear_logprob, "PASS_ROWS", 23)
    monkeypatch.setattr(triton_linear_logprob, "CHUNK_ROWS", 9)
    monkeypatch.setattr(triton_linear_logprob, "CHUNK_ENTRIES", 110)
    check_linear((50, 40, 301), head, dtype, fused=fused, apart=130)


@pytest.mark.parametrize("head", list(HEADS))
def test_rows_with_equal_maxima_and_masks(head: str) -> None:
    check_rows((7, 8300), head, torch.float16)
    check_rows((4, 50), head, torch.float32)
