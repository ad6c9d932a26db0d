"""Whether a package that only some uses need is there, in a version that works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys


def need_package(distribution: str, module: str, versions: str, *, extra: str, program: bool = False) -> None:
    """Raise ImportError naming the extra where a package is absent, and the range that works where it is outside.

    With `program` it leaves with the error as one line, as a command does.

    >>> need_package("numpy", "numpy", ">=99", extra="arrays")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ImportError: instsel works with numpy >=99, found ...: pip install 'instsel[arrays]'
    """
    if (wrong := _what_is_wrong(distribution, module, versions, extra)) is None:
        return
    if program:
        sys.exit(f"error: {wrong}")
    raise ImportError(wrong)


def _what_is_wrong(distribution: str, module: str, versions: str, extra: str) -> str | None:
    from packaging.specifiers import SpecifierSet

    cure = f"pip install 'instsel[{extra}]'"
    if not _is_there(module):
        return f"{distribution} is not installed: {cure}"
    try:
        found = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None  # a source tree on the path, or a build under another name, says no version
    if not SpecifierSet(versions).contains(found, prereleases=True):
        return f"instsel works with {distribution} {versions}, found {found}: {cure}"
    return None


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
