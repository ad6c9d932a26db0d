"""The program of a worker process: it reads tasks from its line and does them until the line ends."""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import threading
import time
import warnings
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from instsel.terminal import drop_remarks

if TYPE_CHECKING:
    from instsel.parallel.tasks import TaskExecutor

_WATCH = 2.0  # seconds between looks at whether the driver is there
_PR_SET_PDEATHSIG = 1


def serve(descriptor: int, driver: int, ask_kernel: bool) -> None:
    """Do what comes over the line `descriptor` from the process `driver`, and end when that ends."""
    began = time.monotonic()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_remarks()
    if ask_kernel:
        _end_with_parent()
    line = Connection(descriptor)
    inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(line, inbox, driver), daemon=True).start()
    _, *given = inbox.get()
    executor = _open_executor(line, *given, began=began)
    while executor is not None:
        word, *rest = inbox.get()
        if word == "task":
            line.send(("done", executor.execute(*rest)))
        elif word == "keep":
            executor.keep(*rest)
        elif word == "forget":
            executor.forget(*rest)


def _open_executor(
    line: Connection,
    packed: bytes,
    threads: int,
    silent: bool,
    *,
    began: float,
) -> TaskExecutor | None:
    """The executor with the model loaded; None where that failed, which the driver is told."""
    import torch

    from instsel.parallel.tasks import TaskExecutor, pack_error
    from instsel.parallel.worker_backend import worker_info

    if silent:
        warnings.simplefilter("ignore")  # the first worker says what all would say
    torch.set_num_threads(threads)
    try:
        scorer = pickle.loads(packed)
        line.send(("ready", worker_info(scorer, time.monotonic() - began)))
    except Exception as error:
        line.send(("refused", pickle.loads(pack_error(error))[1]))
        return None
    return TaskExecutor(scorer)


def _read(line: Connection, inbox: queue.SimpleQueue[tuple[Any, ...]], driver: int) -> None:
    """Take what comes as it comes, so that the driver never waits to send; leave when the driver is gone."""
    with contextlib.suppress(EOFError, OSError):
        while os.getppid() == driver:
            if line.poll(_WATCH):
                inbox.put(line.recv())
    os._exit(1)


def _end_with_parent() -> None:
    """On Linux the kernel kills this process with its parent, whatever it is doing then."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
