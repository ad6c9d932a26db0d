"""What an error says, in one line, for messages of ours."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def type_and_first_line(error: BaseException) -> str:
    """The same after its type, for errors of other people's code."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
