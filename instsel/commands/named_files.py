"""The files that a command's arguments name: none of them may be among those that the command replaces."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def files_named_by(arguments: Mapping[str, Any]) -> list[Path]:
    """The files and folders that exist among a command's arguments, where it writes left out.

    >>> files_named_by({"input": ["/", "/no/such/file"], "model": "/", "seed": 0, "output": "/"})
    [PosixPath('/'), PosixPath('/')]
    """
    found: list[Path] = []
    for name, value in arguments.items():
        if name != "output":
            found += [Path(one) for one in (value if isinstance(value, (list, tuple)) else [value]) if _exists(one)]
    return found


def _exists(value: Any) -> bool:
    try:
        return isinstance(value, (str, os.PathLike)) and os.fspath(value) != "" and os.path.exists(value)
    except ValueError:  # a zero byte in a text
        return False
