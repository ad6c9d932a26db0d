"""Files that are either whole or absent: temporary name, flush to the disk, rename; and their digests."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

TEMPORARY_PREFIX = ".unfinished-"
TEMPORARY = re.compile(r"\.unfinished-(\d+)(-workers|-progress)?")
_BLOCK = 1 << 20


def digest_file(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal, read in blocks of one MiB."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def durable_file(directory: Path, name: str | Callable[[str], str]) -> Iterator[BinaryIO]:
    """Open a file of `directory` for writing that appears under its name only when it is whole and on the disk.

    `name` is the final name, or a function from the SHA-256 of the content to the final name. If the body raises,
    the temporary file is removed and whatever stood under the name before stays.

    Raises:
        OSError: the folder is gone or cannot be written, or the disk is full.
    """
    temporary = directory / f"{TEMPORARY_PREFIX}{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        final = name if isinstance(name, str) else name(digest_file(temporary))
        os.replace(temporary, directory / final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(directory)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as `durable_file` does."""
    with durable_file(path.parent, path.name) as file:
        file.write(text.encode())


def sync_directory(directory: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut; some file systems have no such call."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(directory: Path) -> None:
    """Remove what killed processes left under temporary names; what a living one is about to name stays."""
    for path in directory.glob(f"{TEMPORARY_PREFIX}*"):
        match = TEMPORARY.fullmatch(path.name)
        if match and not _is_another_process(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_another_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
