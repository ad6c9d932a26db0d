"""Float32 products on a GPU in full, whatever the program or the environment allows them to be rounded to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_blocks = 0  # that are running, in all threads: the setting is the process's
_restore: Callable[[], None] | None = None


@contextmanager
def full_float32_products() -> Iterator[None]:
    """Within this block float32 products on a GPU are not rounded to TF32 (10 of 23 bits of the factors).

    `TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1`, which vendors' containers set, `torch.set_float32_matmul_precision("high")`
    and the precisions under `torch.backends` allow it. What is set is put back when the last block of any thread ends.
    """
    global _blocks, _restore
    with _lock:
        if _blocks == 0:
            _restore = _forbid_rounding()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0 and _restore is not None:
                _restore()
                _restore = None


def _forbid_rounding() -> Callable[[], None] | None:
    """Forbids it where it is allowed; gives what puts the setting back."""
    products: Any = torch.backends.cuda.matmul
    # By the interface through which it was allowed: PyTorch refuses to read a setting made through both.
    try:
        if not products.allow_tf32:
            return None
        name, inside = "allow_tf32", False  # type: tuple[str, bool | str]
    except RuntimeError:
        if products.fp32_precision != "tf32":
            return None
        name, inside = "fp32_precision", "ieee"
    before = getattr(products, name)
    setattr(products, name, inside)
    return lambda: setattr(products, name, before)
