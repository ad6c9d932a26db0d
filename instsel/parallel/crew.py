"""The former name of `worker_backend`, kept for one version."""

from __future__ import annotations

import warnings


def __getattr__(name: str) -> object:
    if name != "WorkersError":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from instsel.parallel.worker_backend import WorkersError

    warnings.warn(
        "instsel.parallel.crew is now instsel.parallel.worker_backend; import WorkersError from there",
        DeprecationWarning,
        stacklevel=2,
    )
    return WorkersError
