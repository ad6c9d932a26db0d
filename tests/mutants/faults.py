"""What a fault is, and the tests that a list's faults mostly go to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In `file`, `text`, which stands there once, becomes `instead`; one of `tests`, pytest's arguments, must fail."""

    name: str
    file: str
    text: str
    instead: str
    tests: str


COPIES = "tests/test_device_copies.py tests/test_pack_results.py"
REHEARSAL = "tests/gpu_rehearsal.py tests/gpu_kernel_rehearsal.py -k 'not few_variants'"
RECURRENCES = "tests/interpreted_recurrences.py -k 'not whole_vectors'"
