"""What `instsel select` reads: scores, lengths, labels of clusters and embeddings of a run folder or a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from instsel.commands.method_flags import read_array
from instsel.runs.durable_files import digest_file
from instsel.runs.finished_run import read_run
from instsel.runs.results import open_result
from instsel.runs.scored_files import ScoredFile

USUAL_SCORES = ("score", "ifd", "mean_logprob")  # of wici, ifd, score


def scored_input(path: Path) -> tuple[dict[str, Any], ScoredFile]:
    """The manifest and the result of a run folder, or a file and an empty manifest."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"input {path} is not a regular file" if path.exists() else f"input {path} does not exist")
        return {}, ScoredFile(path)
    run = read_run(path)
    if run.result() is None:
        raise ValueError(f"{path} is not a finished run folder (see instsel status)")
    return run.manifest, open_result(run)


def score_column(scored: ScoredFile, by: str | None, manifest: dict[str, Any]) -> tuple[str, bool]:
    """The column to select by, our own by our name for it, and whether it holds IFD."""
    names = [by] if by is not None else [name for name in USUAL_SCORES if name in scored.own]
    if not names:
        raise _missing(scored, f"column {' or '.join(USUAL_SCORES)}", "--by")
    column = scored.find(names[0])
    if column is None:
        raise _missing(scored, f"column {names[0]!r}", "--by")
    name = scored.named(column)
    return name, name == "ifd" or (name == "score" and manifest.get("method") == "ifd")


def read_lengths(scored: ScoredFile, name: str) -> np.ndarray:
    """The rows' lengths in tokens, float64 `[n]`."""
    column = scored.find(name)
    if column is None:
        raise _missing(scored, f"column {name!r} with the rows' lengths", "--num-tokens")
    return scored.numbers(column)


def read_labels(
    args: argparse.Namespace, scored: ScoredFile, embeddings: np.ndarray | None, rows: int
) -> tuple[np.ndarray | None, list[str]]:
    """Labels of clusters, int64 `[n]`, and the names that a column gives them; None where no rule needs any."""
    from instsel.neighbors.clusters import cluster_rows
    from instsel.selection.labels import number_labels

    if args.clusters is not None:
        if args.coverage not in ("proportional", "equal"):
            raise ValueError("--clusters needs --coverage proportional or equal")
        column = scored.find(args.clusters)
        if column is None:
            raise _missing(scored, f"column {args.clusters!r}", "--clusters")
        values = scored.values(column)
        try:
            labels = number_labels(values, rows)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--clusters {args.clusters}: {error}") from None
        return labels, [str(value) for value in sorted(set(values))]
    if args.coverage is None:
        return None, []
    if embeddings is None:
        raise ValueError(f"--coverage {args.coverage} needs embeddings, and {args.input} has none: give --embeddings")
    if args.coverage == "facility-location":
        return None, []
    if len(embeddings) != rows:
        raise ValueError(f"--embeddings must have {rows} rows, one for each score, got {len(embeddings)}")
    if args.num_clusters > rows:
        raise ValueError(f"--num-clusters must be at most the {rows} rows there are, got {args.num_clusters}")
    return cluster_rows(embeddings, args.num_clusters, seed=args.seed).labels, []


def read_embeddings(
    given: Path | None, source: Path, manifest: dict[str, Any], rows: int
) -> tuple[np.ndarray | None, str]:
    """The embeddings that are given, or else the run folder's own, and what they are; None where there are none."""
    if given is not None:
        return read_array(given, "--embeddings"), f"{given.name} {digest_file(given)}"
    for stage in read_run(source).stages() if manifest else ():
        if stage.name == "embeddings" and stage.rows == rows:
            return read_run(source).column(stage, "embedding"), "the run's own embeddings"
    return None, "none"


def _missing(scored: ScoredFile, wanted: str, flag: str) -> ValueError:
    return ValueError(f"{scored.path} has no {wanted}; it has {', '.join(scored.columns[:30])}: name one with {flag}")
