"""Files of stores that fsspec knows by their addresses, such as `s3://bucket/pool/*.jsonl`."""

from __future__ import annotations

import glob
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from instsel.error_text import first_line
from instsel.records.compression import data_suffix
from instsel.records.files import SUFFIXES
from instsel.runs.spooled_input import Spool

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_address(name: str) -> bool:
    """Whether a name is an address such as s3://bucket/rows.jsonl, and not a file's.

    >>> is_address("s3://bucket/rows.jsonl"), is_address("rows.jsonl"), is_address("./s3:/rows.jsonl")
    (True, False, False)
    """
    return _ADDRESS.match(name) is not None


def fetch(address: str) -> list[Spool]:
    """The file of an address, or those of a folder or glob sorted by name, each copied to a temporary file.

    Of a folder those whose names are of a known format, as of a local one. Raises ValueError naming the address where
    there is none, where the store cannot be reached, or its package is not installed.
    """
    try:
        import fsspec

        store, path = fsspec.core.url_to_fs(address)
        paths = _files(store, path, address)
        spools = []
        for one in paths:
            with store.open(one, "rb") as stream:
                spools.append(Spool(stream, store.unstrip_protocol(one), one.rstrip("/").rpartition("/")[2]))
        return spools
    except Exception as error:  # of any store, network or credentials
        if isinstance(error, ValueError) and str(error).startswith("input "):
            raise
        raise ValueError(f"input {address} cannot be read: {first_line(error)}") from error


def _files(store: AbstractFileSystem, path: str, address: str) -> list[str]:
    if glob.has_magic(path):
        found = sorted(name for name in store.glob(path) if store.isfile(name))
    elif store.isdir(path):
        found = sorted(name for name in store.ls(path, detail=False) if store.isfile(name) and _is_data(name))
    elif not store.exists(path):
        raise ValueError(f"input {address} does not exist")
    else:
        found = [path]
    if not found:
        raise ValueError(f"input {address} matches no file")
    return found


def _is_data(path: str) -> bool:
    name = PurePosixPath(path)
    return not name.name.startswith((".", "_")) and data_suffix(name) in SUFFIXES
