"""row_logprob against a float64 oracle, with budgets drawn from the data, on every backend that runs here."""

from __future__ import annotations

import instruction_sets
import pytest
import torch
from accuracy import assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instsel.kernels import row_logprob

pytestmark = pytest.mark.usefixtures("two_threads")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def oracle(logits: Tensor, rows: Tensor, targets: Tensor, scale: float = 1.0, softcap: float | None = None) -> Tensor:
    z = logits.double() * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return torch.log_softmax(z, dim=-1)[rows, targets]


def naive(logits: Tensor, rows: Tensor, targets: Tensor, scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """As people write it: everything in the dtype of the logits."""
    z = logits * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return torch.log_softmax(z, dim=-1)[rows, targets].double()


def pairs(num_rows: int, vocabulary: int, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, num_rows, (count,), generator=generator)
    return rows, torch.randint(0, vocabulary, (count,), generator=generator)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 2049), (5, 4096), (2, 151_936)], ids=str)
@pytest.mark.parametrize("head", [{}, {"scale": 0.25}, {"softcap": 8.0, "scale": 1.5}], ids=["plain", "scale", "cap"])
def test_matches_float64(shape: tuple[int, int], dtype: torch.dtype, head: dict[str, float]) -> None:
    torch.manual_seed(1)
    logits = (torch.randn(shape) * 6).to(dtype)
    rows, targets = pairs(*shape, count=40)
    result = row_logprob(logits, rows, targets, argmax=True, backend="cpu", **head)
    assert_within_budget(
        result.logprob, oracle(logits, rows, targets, **head), naive(logits.float(), rows, targets, **head)
    )
    assert result.argmax is not None
    z = logits.float()[rows] * head.get("scale", 1.0)
    if "softcap" not in head:  # tanh may round two large logits to one
        assert torch.equal(z.gather(1, result.argmax[rows, None])[:, 0], z.amax(dim=1))


def hard_rows() -> dict[str, Tensor]:
    torch.manual_seed(2)
    vocabulary = 5000
    dominant = torch.randn(1, vocabulary)
    dominant[0, 4999] = 300.0
    masked = torch.randn(1, vocabulary)
    masked[0, ::2] = float("-inf")
    late = torch.full((1, vocabulary), float("-inf"))
    late[0, 4500] = -3.0
    return {
        "all about -200": torch.randn(1, vocabulary) - 200.0,
        "offset of 1e4": torch.randn(1, vocabulary) + 1e4,
        "half -inf": masked,
        "-inf until late": late,
        "one dominant": dominant,
        "rising": torch.linspace(-300.0, 300.0, vocabulary)[None],
        "equal": torch.full((1, vocabulary), 2.5),
    }


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", list(hard_rows()))
def test_hard_rows(name: str, backend: str) -> None:
    logits = hard_rows()[name]
    targets = torch.tensor([0, 1, 4499, 4500, 4998, 4999])
    rows = torch.zeros_like(targets)
    got = row_logprob(logits, rows, targets, argmax=True, backend=backend)
    assert_within_budget(got.logprob, oracle(logits, rows, targets), naive(logits, rows, targets))
    assert got.argmax is not None and int(got.argmax) == int((logits[0] == logits.max()).int().argmax())


def test_a_maximum_started_from_zero_would_fail() -> None:
    """The negative control of "all about -200": the trap gives the wrong log-sum-exp there, and the test sees it."""
    logits = hard_rows()["all about -200"]
    rows = targets = torch.zeros(1, dtype=torch.int64)
    broken = (logits[0, 0] - torch.log(torch.exp(logits - logits.max().clamp(min=0)).sum())).reshape(1)
    with pytest.raises(AssertionError):
        assert_within_budget(broken, oracle(logits, rows, targets), naive(logits, rows, targets))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_rows_that_are_not_numbers(backend: str) -> None:
    logits = torch.randn(4, 3000)
    logits[0, 2999] = float("nan")
    logits[1] = float("-inf")
    logits[2, 7] = float("inf")
    rows, targets = torch.arange(4), torch.tensor([0, 5, 0, 1])
    result = row_logprob(logits, rows, targets, argmax=True, backend=backend)
    assert torch.isfinite(result.logprob).tolist() == [False, False, False, True]
    assert result.argmax is not None and result.argmax[:3].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_sequences_masks_and_unread_rows(backend: str) -> None:
    logits = torch.randn(6, 100)
    rows, targets = torch.tensor([0, 0, 2, 3, 5]), torch.tensor([1, 2, 3, -100, 5])
    mask = torch.tensor([True, True, True, False, False])
    offsets = torch.tensor([0, 0, 2, 3, 4, 5])
    result = row_logprob(logits, rows, targets, offsets=offsets, mask=mask, argmax=True, backend=backend)
    exact = oracle(logits, rows[:3], targets[:3])
    assert result.sum is not None and result.mean is not None and result.argmax is not None
    expected = torch.tensor([0.0, exact[:2].sum(), exact[2], 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(result.sum, expected, atol=1e-5, rtol=0)
    assert result.mean.isnan().tolist() == [True, False, False, True, True]
    torch.testing.assert_close(result.mean[1:3], torch.stack([exact[:2].mean(), exact[2]]), atol=1e-5, rtol=0)
    assert result.logprob.isnan().tolist() == [False, False, False, True, True]
    assert result.logsumexp.isnan().tolist() == [False, True, False, True, True, True]
    assert result.argmax[[1, 3, 4, 5]].tolist() == [-1] * 4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_row_stride(dtype: torch.dtype) -> None:
    whole = torch.randn(9, 4, 700).to(dtype)
    view = whole[:, 2, 10:650]
    rows, targets = pairs(9, 640, 30)
    strided, copied = (row_logprob(x, rows, targets, backend="cpu").logprob for x in (view, view.contiguous()))
    assert torch.equal(strided, copied)


@pytest.mark.parametrize("instructions", instruction_sets.long_but_best(instruction_sets.NAMES))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_instruction_set(instructions: str, dtype: torch.dtype) -> None:
    logits = (torch.randn(3, 5001) * 8).to(dtype)
    rows, targets = pairs(3, 5001, 20)
    with instruction_sets.forced(instructions):
        got = row_logprob(logits, rows, targets, softcap=15.0, backend="cpu")
    exact = oracle(logits, rows, targets, softcap=15.0)
    assert_within_budget(got.logprob, exact, naive(logits.float(), rows, targets, softcap=15.0))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5000), st.integers(0, 2**31), st.sampled_from(DTYPES))
def test_a_batch_equals_its_rows_one_by_one(num_rows: int, vocabulary: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(num_rows, vocabulary, generator=generator) * 10).to(dtype)
    rows, targets = pairs(num_rows, vocabulary, num_rows + 3, seed)
    together = row_logprob(logits, rows, targets, backend="cpu").logprob
    zero = torch.zeros(1, dtype=torch.int64)
    for pair in range(0, len(rows), 1 + len(rows) // 5):
        alone = row_logprob(logits[rows[pair]][None], zero, targets[pair, None], backend="cpu").logprob
        assert torch.equal(alone, together[pair, None])
    order = torch.randperm(len(rows), generator=generator)
    shuffled = row_logprob(logits, rows[order], targets[order], backend="cpu").logprob
    assert torch.equal(shuffled, together[order])


def test_empty_inputs() -> None:
    none = torch.empty(0, dtype=torch.int64)
    for num_rows in (0, 3):
        result = row_logprob(torch.randn(num_rows, 7), none, none, offsets=torch.tensor([0, 0]), backend="cpu")
        assert result.logprob.shape == (0,) and result.logsumexp.shape == (num_rows,)
        assert result.sum is not None and result.sum.tolist() == [0.0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": torch.tensor([0, 9])}, ValueError, r"targets: expected indices in \[0, 5\), got 9 at position 1"),
        ({"rows": torch.tensor([-1, 0])}, ValueError, "rows: expected indices"),
        ({"rows": torch.tensor([0.0, 1.0])}, TypeError, "rows: expected dtype int64, got float32"),
        ({"targets": torch.tensor([0])}, ValueError, "targets: expected length 2"),
        ({"logits": torch.zeros(2, 5).double()}, TypeError, "logits: expected dtype float32 or"),
        ({"logits": torch.zeros(5, 2).T}, ValueError, "logits: expected a column stride of 1"),
        ({"offsets": torch.tensor([0, 1])}, ValueError, "offsets: expected non-decreasing"),
        ({"softcap": -1.0}, ValueError, "softcap"),
        ({"softcap": 1e-300}, ValueError, "softcap: expected None or a positive finite number of float32"),
        ({"softcap": 1e300}, ValueError, "softcap"),
        ({"scale": float("nan")}, ValueError, "scale"),
        ({"scale": -1e300}, ValueError, "scale: expected a finite number of float32"),
        ({"scale": 10**400}, ValueError, "scale"),
        ({"backend": "gpu"}, ValueError, "backend: expected"),
        ({"backend": "triton"}, ValueError, "backend: 'triton' cannot be used"),
        ({"bias": torch.zeros(4)}, ValueError, "bias: expected length 5"),
    ],
)
def test_refusals_name_the_parameter(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"logits": torch.zeros(2, 5), "rows": torch.tensor([0, 1]), "targets": torch.tensor([0, 1])} | change
    logits, rows, targets = (arguments.pop(name) for name in ("logits", "rows", "targets"))
    with pytest.raises(error, match=message):
        row_logprob(logits, rows, targets, **arguments)  # type: ignore[arg-type]
