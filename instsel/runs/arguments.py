"""A command's arguments: as a manifest keeps them, and the files that they name, which it may not replace."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from instsel.runs.remote_files import is_address


def recorded_arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """A command's arguments as a manifest keeps them, files by their full path, for --config to read again."""
    recorded = {name: _recordable(value) for name, value in arguments.items() if value is not None}
    if (output := arguments.get("output")) is not None and not is_address(str(output)):
        recorded["output"] = os.path.abspath(str(output))  # a folder, though none may be there yet
    return recorded


def _recordable(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_recordable(one) for one in value]
    return os.path.abspath(value) if isinstance(value, os.PathLike) else value


def as_path(value: object, *, suffixes: tuple[str, ...] = ("",)) -> object:
    """A text as a path where it ends in one of the suffixes and names a file or folder; anything else as it is.

    >>> as_path("/"), as_path("/no/such/file"), as_path("/", suffixes=(".npy",)), as_path(3)
    (PosixPath('/'), '/no/such/file', '/', 3)
    """
    return Path(value) if isinstance(value, str) and value.endswith(suffixes) and _exists(value) else value


def files_named_by(arguments: Mapping[str, object]) -> list[Path]:
    """The files and folders that exist among a command's arguments, where it writes left out.

    They are those given as paths, and as a manifest has them: as texts from the root on.

    >>> files_named_by({"input": ["/", "/no/such/file"], "model": Path("."), "command": ".", "output": "/"})
    [PosixPath('/'), PosixPath('.')]
    """
    found: list[Path] = []
    for name, value in arguments.items():
        if name != "output":
            given = value if isinstance(value, (list, tuple)) else [value]
            found += [Path(one) for one in given if (isinstance(one, os.PathLike) or _is_whole(one)) and _exists(one)]
    return found


def _is_whole(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and os.path.isabs(value)


def _exists(value: str | os.PathLike[str]) -> bool:
    try:
        return os.fspath(value) != "" and os.path.exists(value)
    except ValueError:  # a zero byte in a text
        return False
