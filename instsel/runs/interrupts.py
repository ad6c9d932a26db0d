"""Ctrl-C and SIGTERM: the first one stops in order, the second one leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

Handler = Callable[[int, FrameType | None], object] | int | None  # of a signal


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread when the process was asked to stop; `exit_code` is 128 + the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.exit_code = 128 + signal_number


class Interrupts:
    """Turns SIGINT and SIGTERM into one `Interrupted`, and a second signal into leaving at once.

    Everything on the disk is whole at every moment (see durable_files), so leaving at once damages nothing.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._held = 0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise if a signal has come: a library may have swallowed what the handler raised."""
        if self._number is not None and not self._held:
            raise Interrupted(self._number)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A stretch that a first signal does not break: it is raised at the end of the stretch."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self.check()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._number is not None:
            os._exit(128 + number)
        self._number = number
        if not self._held:
            raise Interrupted(number)
