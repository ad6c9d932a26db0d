"""The head in Triton under its interpreter, against float64; test_triton_kernels.py runs this file by itself.

As in interpreted_attention.py the interpreter must be on before Triton is imported, tiles are small and bfloat16 is
left out where there are products.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

from typing import Any

import pytest
import test_linear_logprob as linear
import test_row_logprob as row
import torch
from accuracy import assert_within_budget
from kernel_checks import FAR, HEADS, check_far_weights, check_linear, check_rows, far_apart, with_gaps

from instsel.kernels import linear_logprob, row_logprob, triton_linear_logprob, triton_pairs
from instsel.kernels.logprobs import HeadTransform, Pairs

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
    pairs, head = Pairs(rows, targets), HeadTransform()
    results = launch_row(torch.randn(2, 10), pairs, head, False)
    assert results.logprob.isnan().tolist() == [False, *[True] * 6]
    results = launch_linear(torch.randn(2, 8), torch.randn(10, 8), pairs, head, False, "auto")
    assert results.logprob.isnan().tolist() == [False, *[True] * 6]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("head", ["plain", "cap and scale"])
@pytest.mark.parametrize("shape", [(0, 8, 5), (1, 8, 1), (3, 33, 2), (17, 40, 300)], ids=str)
def test_linear_logprob(shape: tuple[int, int, int], head: str, fused: bool, dtype: torch.dtype) -> None:
    hidden, weight, rows, targets = linear.problem(*shape, dtype)
    bias = torch.randn(shape[2], generator=torch.Generator().manual_seed(1)) if head != "plain" else None
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
    sums, means = triton_pairs.sequence_sums(logprobs[2:5], torch.tensor([-2, 1, 3]), None)
    assert sums.tolist() == [-3.0, -9.0] and means.tolist() == [-3.0, -4.5]


@pytest.mark.parametrize("kind", ["rows", "fused", "unfused"])
def test_a_batch_whose_indices_lie_apart(kind: str) -> None:
    hidden, weight, rows, targets = linear.problem(7, 16, 90, torch.float32)
    options = {"mask": torch.arange(14) % 3 != 1, "offsets": torch.tensor([0, 4, 9, 14]), "bias": torch.randn(90)}

    def run(rows: torch.Tensor, targets: torch.Tensor, **options: torch.Tensor) -> Any:
        if kind == "rows":
            return row_logprob(hidden @ weight.T, rows, targets, backend="triton", **options)
        return linear_logprob(hidden, weight, rows, targets, backend="triton", fused=kind == "fused", **options)

    expected = run(rows, targets, **options)
    given = {"rows": rows, "targets": targets, **options}
    for name in given:
        got = run(**given | {name: with_gaps(given[name])})
        for one in ("logprob", "logsumexp", "sum", "mean"):
            torch.testing.assert_close(getattr(got, one), getattr(expected, one), atol=0, rtol=0, equal_nan=True)


def test_pairs_of_no_rows_become_nan() -> None:
    """No row is read in place of one that is not there."""
    from instsel.kernels.triton_linear_logprob import linear_logprob as launch_linear
    from instsel.kernels.triton_row_logprob import row_logprob as launch_row

    for mask in (None, torch.tensor([True, False, True])):
        pairs, head = Pairs(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, -1]), mask), HeadTransform()
        assert launch_row(torch.empty(0, 10), pairs, head, True).logprob.isnan().all()
        nothing_before = torch.empty(0, 2**40)[:, :8]  # a row before the first would be where no memory is
        assert launch_linear(nothing_before, torch.randn(10, 8), pairs, head, True, True).logprob.isnan().all()


def test_places_beyond_32_bits() -> None:
    """Logits, hidden states and weights whose elements are more than 2**31 from the first."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(torch.bfloat16)  # noqa: E731
    rows, targets = torch.tensor([0, 1, 2, 2]), torch.tensor([2, 1, 2, 0])
    logits, hidden, weight = draw(3, 40), draw(3, 32), draw(3, 32)
    near = row_logprob(logits, rows, targets, backend="triton")
    assert torch.equal(row_logprob(far_apart(logits, FAR), rows, targets, backend="triton").logprob, near.logprob)
    near = linear_logprob(hidden, weight, rows, targets, backend="triton")
    for apart in ((far_apart(hidden, FAR), weight), (hidden, far_apart(weight, FAR))):
        assert torch.equal(linear_logprob(*apart, rows, targets, backend="triton").logprob, near.logprob)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_parts_without_any_probability(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of -inf fill the first tiles, a later tile and a whole split; of a row, all."""
    monkeypatch.setattr(triton_linear_logprob, "CHUNK_ENTRIES", 110)
    hidden, weight, rows, targets = linear.problem(9, 24, 500, torch.float32)
    bias = torch.zeros(500)
    bias[:70], bias[200:390] = float("-inf"), float("-inf")
    options: dict[str, Any] = {"bias": bias, "argmax": True}
    got = linear_logprob(hidden, weight, rows, targets, backend="triton", fused=fused, **options)
    exact, low = (
        linear.oracle(hidden, weight, rows, targets, bias, dtype=kind) for kind in (torch.float64, torch.float32)
    )
    assert_within_budget(got.logprob, exact, low)
    assert torch.equal(got.logprob.isneginf(), exact.isneginf())
    assert got.argmax is not None
    assert torch.equal(got.argmax, (hidden.double() @ weight.double().T + bias).argmax(1))
    nothing = linear_logprob(hidden, weight, rows, targets, bias=bias - torch.inf, backend="triton", fused=fused)
    assert nothing.logprob.isnan().all() and not nothing.logsumexp.isfinite().any()


def test_row_logprob_of_blocks_without_any_probability() -> None:
    logits = torch.randn(3, 8192 + 900, generator=torch.Generator().manual_seed(0))
    logits[0, :8192], logits[1, 8192:], logits[2] = -torch.inf, -torch.inf, -torch.inf
    rows, targets = row.pairs(2, 9000, count=40)
    targets[:9] = torch.arange(8192, 8201)
    got = row_logprob(logits, rows, targets, argmax=True, backend="triton")
    exact = row.oracle(logits, rows, targets)
    assert_within_budget(got.logprob, exact, row.naive(logits, rows, targets))
    assert torch.equal(got.logprob.isneginf(), exact.isneginf()) and got.logprob.isfinite().any()
    assert got.argmax is not None and got.argmax.tolist() == [*logits[:2].argmax(1).tolist(), -1]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
def test_linear_logprob_of_certain_targets(fused: bool) -> None:
    """All of the probability on one entry, whose logit is no sum that every order of adding rounds to the same."""
    hidden = torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    every = torch.arange(64)
    got = linear_logprob(hidden, hidden, every, every, backend="triton", fused=fused)
    assert bool((got.logprob <= 0.0).all()) and bool((got.logprob > -1e-3).all())


@pytest.mark.parametrize("softcap", [1e3, 1e6], ids=str)
def test_row_logprob_with_a_cap_far_above_the_logits(softcap: float) -> None:
    """Of which hardly anything is taken off: logits of 1e-6 to 1e-3 of the cap keep their digits."""
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    rows, targets = row.pairs(4, 300, count=60)
    got = row_logprob(logits, rows, targets, softcap=softcap, backend="triton")
    exact, low = row.oracle(logits, rows, targets, softcap=softcap), row.naive(logits, rows, targets, softcap=softcap)
    assert_within_budget(got.logprob, exact, low)


def test_a_weight_beyond_32_bits_in_the_main_loop() -> None:
    check_far_weights(64, torch.float16)


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
