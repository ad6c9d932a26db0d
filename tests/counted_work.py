"""How much a call does, counted in lines of Python that it runs: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType, FrameType, ModuleType
from typing import Any


def lines_run(module: ModuleType, call: Callable[[], object]) -> int:
    """Lines of a module's functions that a call runs, comprehensions of theirs counted a line an item."""
    seen: dict[CodeType, bool] = {}
    lines = 0

    def of_module(code: CodeType) -> bool:
        if code not in seen:
            seen[code] = code.co_filename == module.__file__
        return seen[code]

    def count(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        return count if of_module(frame.f_code) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
