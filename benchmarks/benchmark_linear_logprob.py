"""linear_logprob on the CPU against the bare matrix product of the same shape, and the memory that it takes.

make bench
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from environment import environment

from instsel.kernels import linear_logprob

ROWS, SIZE, VOCABULARY = 1024, 896, 151_936  # the head of a Qwen2.5-0.5B shape


def problem(dtype: torch.dtype, num_rows: int = ROWS) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_rows, SIZE, generator=generator).to(dtype)
    weight = (torch.randn(VOCABULARY, SIZE, generator=generator) * 0.05).to(dtype)
    return hidden, weight, torch.arange(num_rows), torch.randint(0, VOCABULARY, (num_rows,), generator=generator)


@pytest.mark.benchmark(group="head 1024 x 896 x 151936 bfloat16")
class TestHead:
    def test_instsel(self, benchmark: Any) -> None:
        hidden, weight, rows, targets = problem(torch.bfloat16)
        result = linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu")
        exact = torch.log_softmax(hidden[:16].double() @ weight.double().T, -1)[torch.arange(16), targets[:16]]
        assert float((result.logprob[:16].double() - exact).abs().max()) < 2e-5
        benchmark.extra_info.update(environment())
        benchmark.pedantic(
            lambda: linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu"), rounds=9, warmup_rounds=2
        )

    def test_bare_product(self, benchmark: Any) -> None:
        """oneDNN's product into a result that exists already: no page faults, no log-sum-exp."""
        hidden, weight, _, _ = problem(torch.bfloat16)
        out = torch.empty(ROWS, VOCABULARY, dtype=torch.bfloat16)
        benchmark.extra_info.update(environment())
        benchmark.pedantic(lambda: torch.mm(hidden, weight.T, out=out), rounds=9, warmup_rounds=2)

    def test_product_log_softmax_gather(self, benchmark: Any) -> None:
        hidden, weight, _, targets = problem(torch.bfloat16)

        def usual() -> torch.Tensor:
            return torch.log_softmax((hidden @ weight.T).float(), dim=-1).gather(1, targets[:, None])

        benchmark.extra_info.update(environment())
        benchmark.pedantic(usual, rounds=3, warmup_rounds=1)


def extra_memory(num_rows: int, dtype: torch.dtype) -> float:
    """Megabytes by which the process's peak grows in the call, beyond what was resident before it."""
    hidden, weight, rows, targets = problem(dtype, num_rows)
    # Threads and code are brought in first; then the peak is watched over one call.
    linear_logprob(hidden[:200], weight[:5000], rows[:200], targets[:200] % 5000, backend="cpu")
    page = resource.getpagesize()
    process = Path("/proc/self")
    (process / "clear_refs").write_text("5")  # resets the peak
    before = int((process / "statm").read_text().split()[1]) * page
    linear_logprob(hidden, weight, rows, targets, argmax=True, backend="cpu")
    peak = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(peak.split()[1]) * 1024 - before) / 1e6


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("num_rows", [1024, 8192])
def test_extra_memory(num_rows: int, dtype: str, benchmark: Any) -> None:
    """At most 64 MB beyond inputs and outputs, whatever the number of rows; in a fresh process each."""
    script = f"import torch, benchmark_linear_logprob as b; print(b.extra_memory({num_rows}, torch.{dtype}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    megabytes = float(done.stdout)
    benchmark.extra_info.update(megabytes=megabytes, rows=num_rows, dtype=dtype)
    benchmark.pedantic(lambda: None, rounds=1)
    assert megabytes <= 64
