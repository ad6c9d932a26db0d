"""Float32 products are computed in full within a call, and the program's own setting is as it was after it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

# In a process each: PyTorch's setting knows by which interface it was made.
PROGRAM = """
import threading, torch
from instsel.kernels.float32_products import full_float32_products
products = torch.backends.cuda.matmul
{prepare}
def state():
    found = []
    for read in (lambda: products.allow_tf32, lambda: products.fp32_precision, torch.get_float32_matmul_precision):
        try:
            found.append(read())
        except RuntimeError:  # made by the other interface
            found.append("refused")
    return found
before = state()
def in_full():
    return products.fp32_precision != "tf32"
entered, leave = threading.Event(), threading.Event()
def other():
    with full_float32_products():
        entered.set()
        leave.wait(60)
        assert in_full(), "another thread's block has ended"
thread = threading.Thread(target=other)
with full_float32_products():
    thread.start()
    assert entered.wait(60) and in_full()
assert in_full(), "the other thread still runs"
leave.set()
thread.join()
assert state() == before, (before, state())
try:
    with full_float32_products():
        raise KeyError
except KeyError:
    pass
assert state() == before
print(before)
"""


@pytest.mark.parametrize(
    ("prepare", "environment", "allowed"),
    [
        ("", {}, "False"),
        ("", {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "True"),
        ('torch.set_float32_matmul_precision("high")', {}, "True"),
        ("products.allow_tf32 = True", {}, "True"),
        ('products.fp32_precision = "tf32"', {}, "tf32"),
        ('torch.backends.fp32_precision = "tf32"', {}, "tf32"),
    ],
)
def test_whatever_allows_rounding(prepare: str, environment: dict[str, str], allowed: str) -> None:
    given = {**os.environ, **environment}
    command = [sys.executable, "-c", PROGRAM.format(prepare=prepare)]
    found = subprocess.run(command, env=given, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    assert allowed in found.stdout, "the setting that the test is about was made"


def test_what_makes_a_gpu_the_current_one_also_says_so() -> None:
    program = (
        "import contextlib, torch\n"
        "from instsel.kernels.devices import current\n"
        "torch.cuda.device = lambda device: contextlib.nullcontext()\n"
        "products = torch.backends.cuda.matmul\n"
        "products.fp32_precision = 'tf32'\n"
        "with current(torch.device('cuda', 0)):\n"
        "    assert products.fp32_precision != 'tf32'\n"
        "assert products.fp32_precision == 'tf32'\n"
        "with current(torch.device('cpu')):\n"
        "    assert products.fp32_precision == 'tf32'\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
