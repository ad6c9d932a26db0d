"""What a selection from a scored file is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from instsel.runs.arguments import as_path


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfiguration:
    """The input, the budget, the scores, what keeps the rows apart, and where they are written."""

    input: Path
    output: Path
    budget: int | float | None = None
    budget_tokens: int | None = None
    procedure: str | None = None
    by: str | None = None
    keep_all: bool = False
    coverage: str | None = None
    clusters: str | None = None
    num_clusters: int = 24
    num_neighbors: int = 32
    draw_share: float | None = None
    seed: int = 0
    max_similarity: float | None = None
    num_tokens: str = "num_tokens"
    length_strata: int | None = None
    leave_out: Mapping[str, float | None] = field(default_factory=dict)
    embeddings: Path | None = None
    format: str = "parquet"
    overwrite: bool = False
    quiet: bool = False
    plugin: tuple[str, ...] = ()

    def arguments(self) -> dict[str, object]:
        """The same as flags, by their names with underscores."""
        filters = [name if limit is None else f"{name}={limit}" for name, limit in self.leave_out.items()]
        given = {name: getattr(self, name) for name in self.__slots__}
        plugins = [as_path(one) for one in self.plugin]
        return {**given, "leave_out": filters or None, "plugin": plugins, "command": "select"}
