"""A selection's folder as a report reads it, and the run that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from instsel.report.scored_runs import Run, open_run
from instsel.runs.manifest_shape import Manifest

_WORDS = {
    "proportional": "quotas over clusters by their size",
    "equal": "equal quotas over clusters",
    "facility-location": "facility location",
}


@dataclass(frozen=True, slots=True)
class Selection:
    """What `instsel select` chose.

    run       its folder; the result has the selected rows, best first
    rows      int64 [k], their numbers in the pool
    clusters  of each cluster by its name the rows it has and how many are selected, the largest first
    cluster   of each selected row its cluster's name; empty where there are none
    """

    run: Run
    rows: np.ndarray
    clusters: dict[str, tuple[int, int]]
    cluster: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Any]:
        """What it was told."""
        return dict(self.run.manifest.get("parameters", {}))

    @property
    def by_column(self) -> str | None:
        """The column that decided: manifests tell our name for it; those of earlier versions told the column."""
        told = str(self.parameters.get("by"))
        return self.run.scored.find(told) if "columns" in self.run.manifest["output"] else told

    @property
    def by(self) -> str:
        """What the column that decided is called: our name for ours."""
        told = str(self.parameters.get("by"))
        if self.by_column is None:
            return told  # a procedure
        name = self.run.scored.named(self.by_column)
        return name if self.run.scored.find(name) == self.by_column else f"{name} of the input"

    @property
    def num_clusters(self) -> int:
        """How many clusters there are; `clusters` holds the largest of them."""
        return int(self.run.manifest.get("findings", {}).get("num_clusters_found", len(self.clusters)))

    def rule(self, label: str) -> str:
        """How rows were chosen, in words; `label` is what the score is called."""
        told = self.parameters
        budget, tokens = told.get("budget"), told.get("budget_tokens")
        size = f"{tokens:,} tokens" if tokens is not None else str(budget)
        size = f"{100 * budget:.4g} % of the rows" if isinstance(budget, float) else size
        size = f"{budget:,} rows" if isinstance(budget, int) else size
        words = [f"the highest by {label} within {size}"]
        if (share := told.get("worst_share")) is not None:
            cluster = "each cluster" if told.get("num_clusters") else "the pool"
            alike = " among answers of like length" if told.get("worst_strata") else ""
            words = [f"{label}: drawn at random within {size}, without the {100 * share:.4g} % of {cluster} with the "
                     f"highest IFD{alike}"]  # fmt: skip
        elif (share := told.get("draw_share")) is not None:
            words = [
                f"drawn at random within {size} from the {100 * share:.4g} % of each cluster with the highest {label}"
            ]
        if told.get("leave_out"):
            words.append(f"left out: {', '.join(told['leave_out'])}")
        if told.get("coverage"):
            words.append(_WORDS.get(told["coverage"], str(told["coverage"])))
        if told.get("clusters"):
            words.append(f"clusters from the column {told['clusters']}")
        if told.get("num_clusters"):
            words.append(f"{told['num_clusters']} clusters by k-means")
        if told.get("max_similarity") is not None and told.get("embeddings") not in (None, "none"):
            words.append(f"no two with a cosine above {told['max_similarity']:g}")
        if told.get("max_score") is not None:
            words.append(f"none with a score above {told['max_score']:g}")
        return "; ".join(words)


def open_selection(run: Run) -> Selection:
    """A run folder that `instsel select` made."""
    column = run.column("row")
    if column is None:
        raise ValueError(f"{run.path} is a selection without the rows' numbers: make it again with this version")
    rows = run.scored.numbers(column).astype(np.int64)
    found = run.manifest.get("findings", {}).get("clusters", {})
    told = run.manifest.get("parameters", {})
    named = told.get("clusters")
    if named is None and told.get("num_clusters"):
        named = "cluster"
    cluster: tuple[str, ...] = ()
    label = None if named is None else run.scored.find(named)
    if label is not None:
        numbers, names = run.scored.labels(label)
        cluster = tuple(names[number] for number in numbers.tolist())
    clusters = {name: (int(size), int(taken)) for name, (size, taken) in found.items()}
    return Selection(run, rows, clusters, cluster)


def pool_of(selection: Selection, runs: Sequence[Run]) -> Run | None:
    """The run that a selection was made from: one of those given, or else the one that it names, if it is still there.

    Raises ValueError where runs are given and it was made from none of them.
    """
    digest = selection.run.manifest.get("input_digest")
    for run in runs:
        if run.manifest["output"].get("digest") == digest:
            return run
    if runs:
        raise ValueError(
            f"the selection {selection.run.path} was not made from {' or '.join(str(r.path) for r in runs)}"
        )
    source = Path(str(selection.run.manifest.get("input"))).parent
    try:
        found = open_run(source)
    except (ValueError, OSError):
        return None
    return found if found.manifest["output"].get("digest") == digest else None


def alone(selection: Selection) -> Run:
    """A selection whose pool is not there, read as if it were a run of its own: its rows are those selected."""
    run = selection.run
    by = selection.by if selection.by_column is not None else "ifd"  # what every procedure needs
    found = {name: run.columns.get(name) for name in ("status", "num_tokens", "row", "cluster")}
    found[by] = selection.by_column or run.columns.get(by)
    manifest: Manifest = {**run.manifest, "score": by, "rows": len(selection.rows), "stages": []}
    columns = {name: column for name, column in found.items() if column is not None and column in run.scored.columns}
    return replace(run, manifest=manifest, columns=columns)
