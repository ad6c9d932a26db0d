"""Long jobs on disk: a folder of whole shards and a manifest, so that the same command continues what was stopped."""

from instsel.runs.errors import RunError
from instsel.runs.folder import RunFolder

__all__ = ["RunError", "RunFolder"]
