"""Calls that raise, end their process or hang, for test_gpu_day.py."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any


def raises() -> dict[str, Any]:
    raise RuntimeError("num_splits requires FA3")


def dies() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hangs() -> dict[str, Any]:
    time.sleep(600)
    return {}


def calls() -> dict[str, Callable[[], dict[str, Any]]]:
    return {"first": lambda: {"ok": True}, "raises": raises, "dies": dies, "hangs": hangs, "last": lambda: {"ok": True}}
