"""A selection from a run folder into a folder, called from Python, as `instsel select` makes it."""

from __future__ import annotations

import os
from pathlib import Path

from instsel.runs.merged_output import FORMATS
from instsel.selection.folder_selection import WrittenSelection, select_into_folder
from instsel.selection.procedures import PROCEDURES
from instsel.selection.selection_configuration import SelectionConfiguration

PathLike = str | os.PathLike[str]


def select_run(
    run: PathLike,
    output: PathLike,
    budget: int | float | None = None,
    *,
    budget_tokens: int | None = None,
    procedure: str | None = None,
    by: str | None = None,
    embeddings: PathLike | None = None,
    num_clusters: int = 24,
    seed: int = 0,
    format: str = "parquet",
    overwrite: bool = False,
) -> WrittenSelection:
    """Select rows of a finished run into a folder, as `instsel select` does; the same call again leaves it as it is.

    run            the run folder, or a file with scores
    output         the folder for `selected.parquet` and its manifest
    budget         a count of rows (int) or a share of them (float); or `budget_tokens`, a number of tokens
    procedure      "recommended", "filter", "gain", "paper" or "release": the command's help says what each does
    by             the column of scores, whose highest rows are selected
    embeddings     a .npy file `[rows, d]` in place of the run's own
    num_clusters, seed  of k-means, and of what is drawn

    With neither `procedure` nor `by`, a run of `wici` or `ifd` is selected from as recommended, any other by its score.

    Raises ValueError or TypeError naming the parameter, and `instsel.runs.RunError` for the disk.

    >>> chosen = instsel.select_run("runs/ifd", "runs/chosen", 0.1)  # doctest: +SKIP
    >>> chosen.by, chosen.counts["selected"], chosen.file  # doctest: +SKIP
    (('recommended', 'recommended'), 100, 'runs/chosen/selected.parquet')
    """
    if (budget is None) == (budget_tokens is None):
        raise ValueError(f"give one of budget and budget_tokens, got {'neither' if budget is None else 'both'}")
    for name, value, known in (("procedure", procedure, tuple(PROCEDURES)), ("format", format, FORMATS)):
        if value is not None and value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    configuration = SelectionConfiguration(
        input=Path(run),
        output=Path(output),
        budget=budget,
        budget_tokens=budget_tokens,
        procedure=procedure,
        by=by,
        embeddings=None if embeddings is None else Path(embeddings),
        num_clusters=num_clusters,
        seed=seed,
        format=format,
        overwrite=overwrite,
        quiet=True,
    )
    return select_into_folder(configuration)
