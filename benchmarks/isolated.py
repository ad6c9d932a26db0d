"""Named calls in a process of their own, one after the other: one that ends its process or hangs costs itself alone.

A GPU's process is lost with its first illegal access, and a kernel that hangs cannot be interrupted; so the next call
begins in a new process.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

Result = dict[str, Any]
STARTING_SECONDS = 90.0  # for imports, and what a GPU takes to begin


def _serve(pipe: Connection, module: str, options: dict[str, Any], faults: str | None) -> None:
    os.setsid()  # so that what it starts ends with it
    try:
        if faults:
            importlib.import_module(faults)
        calls: dict[str, Callable[[], Result]] = importlib.import_module(module).calls(**options)
    except Exception as error:
        pipe.send(error_of(error))
        return
    pipe.send(list(calls))
    while (name := pipe.recv()) is not None:
        try:
            pipe.send(calls[name]())
        except Exception as error:
            pipe.send(error_of(error))


def error_of(error: Exception) -> Result:
    """A result that says what was raised, and where."""
    return {
        "ok": False,
        "failed": f"{type(error).__name__}: {error}"[:600],
        "traceback": traceback.format_exc(limit=-4),
    }


class _Process:
    def __init__(self, module: str, options: dict[str, Any], faults: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module, options, faults))
        self.process.start()
        other.close()

    def receive(self, seconds: float) -> Any:
        """What it sends; TimeoutError or EOFError where nothing comes."""
        if not self.pipe.poll(max(seconds, 0.0)):
            raise TimeoutError
        return self.pipe.recv()

    def end(self) -> None:
        try:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.join()
        self.pipe.close()


def run_isolated(
    module: str, options: dict[str, Any], *, seconds: float, each: float, faults: str | None = None
) -> Iterator[tuple[str, Result]]:
    """The calls of `module.calls(**options)` by name with what each gave, `seconds` for all and `each` for one.

    A call that raises, ends its process, hangs or for which no time is left gives a result with "ok" False and
    "failed". `faults` is a module imported first, for tests.
    """
    until = time.monotonic() + seconds
    process: _Process | None = None
    names: list[str] | None = None
    waiting: list[str] = []
    try:
        while names is None or waiting:
            if time.monotonic() > until:
                break
            if process is None:
                process = _Process(module, options, faults)
                try:
                    found = process.receive(min(STARTING_SECONDS, until - time.monotonic()))
                except (TimeoutError, EOFError) as error:
                    found = {"ok": False, "failed": f"its process did not start ({type(error).__name__})"}
                if isinstance(found, dict):
                    for name in waiting or [module]:
                        yield name, found
                    return
                if names is None:
                    names, waiting = found, list(found)
                continue
            name = waiting.pop(0)
            process.pipe.send(name)
            began = time.monotonic()
            try:
                result = process.receive(min(each, until - began))
            except TimeoutError:
                result = {"ok": False, "failed": f"over its limit of {min(each, until - began):.0f} s"}
            except EOFError:
                process.process.join(5)
                result = {"ok": False, "failed": f"its process ended with exit code {process.process.exitcode}"}
            result["seconds"] = round(time.monotonic() - began, 3)
            broken = "CUDA" in result.get("failed", "") or ("traceback" not in result and "failed" in result)
            if broken:
                process.end()
                process = None
            yield name, result
        for name in waiting if names is not None else [module]:
            yield name, {"ok": False, "failed": "no time was left"}
    finally:
        if process is not None:
            process.end()
        sys.stdout.flush()
