"""row_logprob on the CPU against what people write, a compiled version of it, and the rate of a bare sum.

    make bench

Each result is checked before it is timed. The bare sum reads the same array with torch on the same cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from environment import environment
from torch import Tensor

from instsel.kernels import row_logprob

ROWS, VOCABULARY = 512, 151_936


@pytest.fixture(scope="module")
def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, VOCABULARY, generator=generator) * 3
    rows, targets = torch.arange(ROWS), torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    exact = torch.cat(
        [
            torch.log_softmax(part.double(), -1)[torch.arange(len(part)), place]
            for part, place in zip(logits.split(64), targets.split(64), strict=True)
        ]
    )
    return logits, rows, targets, exact


def log_softmax_gather(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]


def logsumexp_gather(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)


def run(benchmark: Any, function: Callable[[], Tensor], exact: Tensor | None) -> None:
    result = function()
    if exact is not None:
        assert float((result.double() - exact).abs().max()) < 2e-5
    benchmark.extra_info.update(environment())
    benchmark.pedantic(function, rounds=9, warmup_rounds=2)


@pytest.mark.benchmark(group="log-probabilities from logits 512 x 151936 float32")
class TestFloat32:
    def test_instsel(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        logits, rows, targets, exact = problem
        run(benchmark, lambda: row_logprob(logits, rows, targets, backend="cpu").logprob, exact)

    def test_log_softmax_gather(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        logits, _, targets, exact = problem
        run(benchmark, lambda: log_softmax_gather(logits, targets), exact)

    def test_compiled_logsumexp_gather(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        logits, _, targets, exact = problem
        compiled = torch.compile(logsumexp_gather)
        run(benchmark, lambda: compiled(logits, targets), exact)

    def test_bare_sum(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        logits = problem[0]
        run(benchmark, lambda: logits.sum(), None)


@pytest.mark.benchmark(group="log-probabilities from logits 512 x 151936 bfloat16")
class TestBfloat16:
    def test_instsel(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        logits, rows, targets, _ = problem
        half = logits.bfloat16()
        exact = log_softmax_gather(half[:64].double(), targets[:64])
        assert float((row_logprob(half[:64], rows[:64], targets[:64]).logprob.double() - exact).abs().max()) < 2e-5
        run(benchmark, lambda: row_logprob(half, rows, targets, backend="cpu").logprob, None)

    def test_log_softmax_gather(self, benchmark: Any, problem: tuple[Tensor, ...]) -> None:
        half, targets = problem[0].bfloat16(), problem[2]
        run(benchmark, lambda: log_softmax_gather(half, targets), None)
