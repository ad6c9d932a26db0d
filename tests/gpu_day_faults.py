"""Faults of a GPU's first day, put in where INSTSEL_TEST_FAULT says: imported by the processes of `gpu_run`."""

import os
import signal
import sys
import time

import gpu_checks
import torch

FAULT = os.environ["INSTSEL_TEST_FAULT"]
own = gpu_checks.tree_attention


def faulty(*tensors, window=None, backend="auto"):
    if backend == "reference":
        return own(*tensors, window=window, backend=backend)
    if FAULT == "raises":
        raise RuntimeError("num_splits requires FA3")
    if FAULT == "hangs":
        time.sleep(600)
    if FAULT == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    return own(*tensors, window=window - 1, backend=backend)  # "wrong": one key fewer than it should see


if FAULT == "no triton":
    sys.modules["triton"] = None  # as if it were not installed
if FAULT in ("raises", "hangs", "dies", "wrong"):
    gpu_checks.tree_attention = faulty
torch.set_num_threads(1)
