"""A way of scoring in a process of its own, which runs when it is told to and waits otherwise.

Settings of one way (memory allocator, compiled code, patched modules) so cannot help or hinder another.
"""

from __future__ import annotations

import importlib
import multiprocessing
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

import models
import numpy as np
import torch
from workloads import Workload


class Contestant:
    """One of `competitors.NAMES` or "instsel_engine", with a model in its own process."""

    def __init__(self, name: str, model: str, dtype: str, device: str, work: Workload, *, threads: int | None) -> None:
        self.model, self.dtype, self.device, self.work, self.threads = model, dtype, device, work, threads
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, name, model, dtype, device, work, threads))
        self._process.start()
        other.close()
        self.setup: dict[str, Any] = self._receive()  # batch size, and the seconds of the trials that led to it

    def run(self) -> tuple[float, np.ndarray]:
        """Seconds, and mean log-probabilities."""
        self._pipe.send("run")
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join()

    def _receive(self) -> Any:
        try:
            result = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process ended with exit code {self._process.exitcode}") from None
        if isinstance(result, BaseException):
            raise result
        return result


def _serve(
    pipe: Connection, name: str, model: str, dtype: str, device: str, work: Workload, threads: int | None
) -> None:
    if threads:
        torch.set_num_threads(threads)
    warnings.filterwarnings("error", message=".*scored exactly, but slower.*")
    try:
        module = importlib.import_module(f"competitors.{name}")
        loaded = models.make_model(model, dtype, device=device)
        trials = _trials(module, loaded, work)
        best = min(trials, key=lambda size: trials[size])
        score = module.prepare(loaded, work, best)
        pipe.send({"batch_size": best, "trial_seconds": trials})
        while pipe.recv() == "run":
            begin = time.perf_counter()
            scores = score()  # an array on the host: the device has finished
            pipe.send((time.perf_counter() - begin, scores))
    except EOFError:
        return
    except Exception as error:
        pipe.send(RuntimeError(f"{name}: {error}\n{traceback.format_exc()}"))


def _trials(module: Any, model: Any, work: Workload) -> dict[int, float]:
    """Seconds for a part of the work by batch size, after one run that warms up."""
    middle = len(work) // 2
    half = max(12, len(work) // 16)
    part = work.part(max(middle - half, 0), middle + half)
    sizes = module.BATCH_SIZES
    if model.device.type == "cuda":
        sizes = getattr(module, "GPU_BATCH_SIZES", sizes)
    if len(sizes) == 1:
        part = part.part(0, 2)
    seconds: dict[int, float] = {}
    for size in sizes:
        try:
            score = module.prepare(model, part, size)
            if not seconds:
                score()
            begin = time.perf_counter()
            score()
        except torch.OutOfMemoryError:
            if not seconds:
                raise
            break
        seconds[size] = time.perf_counter() - begin
    return seconds
