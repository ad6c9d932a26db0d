"""linear_logprob against a float64 oracle on the CPU, fused and unfused, with budgets drawn from the data."""

from __future__ import annotations

import instruction_sets
import pytest
import torch
from accuracy import assert_within_budget
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from instsel.kernels import linear_logprob

pytestmark = pytest.mark.usefixtures("two_threads")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HEADS = {"plain": {}, "scale": {"scale": 0.125}, "cap and scale": {"softcap": 12.0, "scale": 1.25}}
# By torch's products with `plain`, by our own elsewhere, of which bfloat16 has others where it has arithmetic.
KINDS = [(dtype, name) for dtype in DTYPES for name in ("plain", "avx2", "avx512")]
KINDS += [(torch.bfloat16, name) for name in instruction_sets.WITH_BFLOAT16]
each_kind = pytest.mark.parametrize(("dtype", "instructions"), instruction_sets.long_but_best(KINDS))


def oracle(
    hidden: Tensor,
    weight: Tensor,
    rows: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    z = hidden.to(dtype) @ weight.to(dtype).T
    z = (z if bias is None else z + bias.to(dtype)) * scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    return torch.log_softmax(z.double(), dim=-1)[rows, targets]


def problem(
    num_rows: int, size: int, vocabulary: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_rows, size, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, size, generator=generator) * 4 / size**0.5).to(dtype)
    count = 2 * num_rows
    rows = torch.randint(0, max(num_rows, 1), (count,), generator=generator)
    targets = torch.randint(0, vocabulary, (count,), generator=generator)
    return hidden, weight, rows, targets


@each_kind
@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("shape", [(1, 8, 1), (3, 33, 2), (37, 96, 4097), (130, 40, 9001), (2, 64, 151_936)], ids=str)
def test_matches_float64(shape: tuple[int, int, int], head: str, dtype: torch.dtype, instructions: str) -> None:
    hidden, weight, rows, targets = problem(*shape, dtype)
    bias = torch.randn(shape[2], generator=torch.Generator().manual_seed(1)) if head != "plain" else None
    with instruction_sets.forced(instructions):
        got = linear_logprob(hidden, weight, rows, targets, bias=bias, argmax=True, backend="cpu", **HEADS[head])
    exact, low = (
        oracle(hidden, weight, rows, targets, bias, dtype=kind, **HEADS[head])
        for kind in (torch.float64, dtype if dtype == torch.bfloat16 else torch.float32)
    )
    assert_within_budget(got.logprob, exact, low)
    if dtype == torch.bfloat16:
        # Far inside the budget of bfloat16 logits: sums are float32.
        float32 = oracle(hidden, weight, rows, targets, bias, dtype=torch.float32, **HEADS[head])
        assert float((got.logprob - exact).abs().max()) <= 4 * float((float32 - exact).abs().max()) + 1e-5
    assert got.argmax is not None
    products = hidden.double() @ weight.double().T
    best = products + (0 if bias is None else bias.double())
    reached = best.gather(1, got.argmax[:, None])[:, 0]
    if "softcap" not in HEADS[head]:
        torch.testing.assert_close(reached, best.amax(dim=1), atol=1e-5, rtol=1e-6)


@each_kind
@pytest.mark.parametrize("head", list(HEADS))
def test_fused_and_unfused_agree(head: str, dtype: torch.dtype, instructions: str) -> None:
    hidden, weight, rows, targets = problem(70, 200, 5000, dtype)
    with instruction_sets.forced(instructions):
        fused, unfused = (
            linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu", fused=way, **HEADS[head])
            for way in (True, False)
        )
    torch.testing.assert_close(fused.logprob, unfused.logprob, atol=1e-5, rtol=1e-6)
    assert fused.argmax is not None and unfused.argmax is not None
    assert float((fused.argmax == unfused.argmax).double().mean()) > 0.98  # ties of rounding aside


@each_kind
def test_hard_rows(dtype: torch.dtype, instructions: str) -> None:
    """Logits of about -200, a constant offset, -inf from the bias, one dominant entry, all at one maximum."""
    vocabulary, size = 4500, 32
    hidden = torch.zeros(5, size, dtype=dtype)
    weight = torch.zeros(vocabulary, size, dtype=dtype)
    torch.manual_seed(3)
    weight[:, 0] = torch.randn(vocabulary).to(dtype)
    weight[:, 1] = 1.0
    weight[4321, 2] = 250.0
    hidden[:, 0] = 1.0
    hidden[1, 1] = -200.0
    hidden[2, 1] = 8192.0
    hidden[3, 2] = 1.0
    hidden[4, 0] = 0.0
    bias = torch.zeros(vocabulary)
    bias[100:4200] = float("-inf")  # whole tiles of the vocabulary
    targets = torch.tensor([0, 50, 100, 4250, 4321])
    rows, columns = (x.reshape(-1) for x in torch.meshgrid(torch.arange(5), targets, indexing="ij"))
    for masked in (None, bias):
        with instruction_sets.forced(instructions):
            got = linear_logprob(hidden, weight, rows, columns, bias=masked, argmax=True, backend="cpu")
        exact, low = (oracle(hidden, weight, rows, columns, masked, dtype=k) for k in (torch.float64, torch.float32))
        assert_within_budget(got.logprob, exact, low)
        assert got.argmax is not None and got.argmax[3] == 4321 and got.argmax[4] == 0
        assert torch.equal(got.argmax[0], got.argmax[1])


def test_columns_past_the_vocabulary_would_be_seen() -> None:
    """Negative control: zeros past V counted as logits (a public kernel's defect) fall outside the budget."""
    hidden, weight, rows, targets = problem(5, 16, 130, torch.float32)
    hidden = hidden * 0.1
    padded = torch.cat([weight, torch.zeros(126, 16)])
    exact = oracle(hidden, weight, rows, targets)
    broken = oracle(hidden, padded, rows, targets).float()
    with pytest.raises(AssertionError):
        assert_within_budget(broken, exact, oracle(hidden, weight, rows, targets, dtype=torch.float32))


@each_kind
def test_hidden_that_is_not_a_number_stays_in_its_row(dtype: torch.dtype, instructions: str) -> None:
    hidden, weight, rows, targets = problem(40, 48, 700, dtype)
    with instruction_sets.forced(instructions):
        clean = linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu")
        hidden[17, 3] = float("nan")
        spoilt = linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu")
    hit = rows == 17
    assert bool(spoilt.logprob[hit].isnan().all()) and int(hit.sum()) > 0
    assert torch.equal(spoilt.logprob[~hit], clean.logprob[~hit])
    assert spoilt.argmax is not None and spoilt.argmax[17] == -1


@each_kind
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 5000), st.integers(0, 2**31))
def test_a_batch_equals_its_rows_one_by_one(
    dtype: torch.dtype, instructions: str, num_rows: int, size: int, vocabulary: int, seed: int
) -> None:
    with instruction_sets.forced(instructions):
        check_rows_alone(num_rows, size, vocabulary, seed, dtype)


def check_rows_alone(num_rows: int, size: int, vocabulary: int, seed: int, dtype: torch.dtype) -> None:
    hidden, weight, rows, targets = problem(num_rows, size, vocabulary, dtype, seed)
    together = linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu")
    zero = torch.zeros(1, dtype=torch.int64)
    for pair in range(0, len(rows), 1 + len(rows) // 3):
        row = int(rows[pair])
        alone = linear_logprob(hidden[row, None], weight, zero, targets[pair, None], argmax=True, backend="cpu")
        assert torch.equal(alone.logprob[0], together.logprob[pair])
        assert torch.equal(alone.logsumexp[0], together.logsumexp[row])
        assert alone.argmax is not None and together.argmax is not None and alone.argmax[0] == together.argmax[row]


@each_kind
def test_the_number_of_threads_changes_nothing(dtype: torch.dtype, instructions: str) -> None:
    """Also of threads that outnumber the vocabulary's segments of 4,096: then they divide the rows too."""
    threads = torch.get_num_threads()
    hidden, weight, rows, targets = problem(300, 64, 9000, dtype)
    results = []
    with instruction_sets.forced(instructions):
        try:
            for count in (1, 2, 7):
                torch.set_num_threads(count)
                results.append(linear_logprob(hidden, weight, rows, targets, backend="cpu").logprob)
        finally:
            torch.set_num_threads(threads)
    # torch's float32 product may divide its sums differently by threads; our own never do.
    for other in results[1:]:
        if instructions != "plain":
            assert torch.equal(results[0], other)
        else:
            torch.testing.assert_close(results[0], other, atol=2e-6, rtol=1e-6)


def test_sequences_empty_inputs_and_views() -> None:
    hidden, weight, rows, targets = problem(20, 32, 50, torch.bfloat16)
    offsets = torch.tensor([0, 10, 10, 40])
    result = linear_logprob(hidden, weight, rows, targets, offsets=offsets)
    exact = oracle(hidden, weight, rows, targets)
    assert result.mean is not None and result.sum is not None
    torch.testing.assert_close(
        result.mean[[0, 2]], torch.stack([exact[:10].mean(), exact[10:].mean()]), atol=1e-5, rtol=0
    )
    assert result.sum[1] == 0 and bool(result.mean[1].isnan())
    none = torch.empty(0, dtype=torch.int64)
    assert linear_logprob(hidden[:0], weight, none, none, argmax=True).logsumexp.shape == (0,)
    wide = torch.zeros(20, 64, dtype=torch.bfloat16)
    wide[:, 8:40] = hidden
    assert torch.equal(linear_logprob(wide[:, 8:40], weight, rows, targets).logprob, result.logprob)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(7, 5)}, ValueError, "weight: expected 4 columns"),
        ({"weight": torch.zeros(7, 4).half()}, TypeError, "weight: expected dtype float32, got float16"),
        ({"targets": torch.tensor([7])}, ValueError, r"targets: expected indices in \[0, 7\)"),
        ({"hidden": torch.zeros(4)}, ValueError, "hidden: expected 2 dimensions"),
        ({"fused": "yes"}, ValueError, "fused: expected True, False"),
        ({"bias": [1.0]}, TypeError, "bias: expected a torch.Tensor, got list"),
    ],
)
def test_refusals_name_the_parameter(change: dict[str, object], error: type[Exception], message: str) -> None:
    zero = torch.zeros(1, dtype=torch.int64)
    arguments = {"hidden": torch.zeros(1, 4), "weight": torch.zeros(7, 4), "rows": zero, "targets": zero} | change
    given_tensors = [arguments.pop(name) for name in ("hidden", "weight", "rows", "targets")]
    with pytest.raises(error, match=message):
        linear_logprob(*given_tensors, backend="cpu", **arguments)  # type: ignore[arg-type]
