"""Whether a host is there in a version that its adapter works with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys


def need_host(distribution: str, module: str, versions: str, *, extra: str, program: bool = False) -> None:
    """Raise ImportError naming the extra to install where a host is absent, and the range where it is another version.

    With `program` it leaves with the error as one line, as a command does.

    >>> need_host("numpy", "numpy", ">=99", extra="arrays")
    Traceback (most recent call last):
        ...
    ImportError: instsel works with numpy >=99, found ...
    """
    if (wrong := _what_is_wrong(distribution, module, versions, extra)) is None:
        return
    if program:
        sys.exit(f"error: {wrong}")
    raise ImportError(wrong)


def _what_is_wrong(distribution: str, module: str, versions: str, extra: str) -> str | None:
    from packaging.specifiers import SpecifierSet

    cure = f"pip install 'instsel[{extra}]'"
    if importlib.util.find_spec(module) is None:
        return f"{distribution} is not installed: {cure}"
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None  # a source tree on the path says no version
    if not SpecifierSet(versions).contains(found, prereleases=True):
        return f"instsel works with {distribution} {versions}, found {found}: {cure}"
    return None
