"""Reading small files that anybody may have put there: never waiting for a pipe, never more than a limit."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from instsel.records.json_types import JsonValue

MAX_BYTES = 1 << 26  # of a JSON file; a manifest with a thousand clusters has less than one MiB


def read_regular(path: Path, limit: int, *, cut: bool = False) -> bytes:
    """A regular file's bytes; of a larger one the first `limit`, if it may be cut.

    Raises ValueError for a pipe, a device or a folder, and for a file larger than `limit` that may not be cut.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        content = file.read(limit if cut else limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is larger than {limit} bytes")
    return content


def read_json(path: Path) -> JsonValue:
    """What a JSON file says; ValueError where it is none, nests too deeply to be read, or holds what UTF-8 cannot."""
    try:
        found = json.loads(read_regular(path, MAX_BYTES).decode("utf-8"))
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # it can be written again: no halves of characters
    except RecursionError:
        raise ValueError(f"{path} nests too deeply") from None
    return found
