"""What `instsel select` reads: scores, lengths, labels of clusters and embeddings of a run folder or a file."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instsel.methods.correlation import spearman_correlation
from instsel.runs.array_files import read_array
from instsel.runs.durable_files import digest_file
from instsel.runs.finished_run import read_run
from instsel.runs.interrupts import Interrupts
from instsel.runs.manifest_shape import Manifest
from instsel.runs.progress import StageProgress
from instsel.runs.results import open_result
from instsel.runs.scored_files import ScoredFile
from instsel.selection.selection_configuration import SelectionConfiguration

USUAL_SCORES = ("score", "ifd", "mean_logprob")  # of wici, ifd, score


def scored_input(path: Path) -> tuple[Manifest, ScoredFile]:
    """The manifest and the result of a run folder, or a file and an empty manifest."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"input {path} is not a regular file" if path.exists() else f"input {path} does not exist")
        return {}, ScoredFile(path)
    run = read_run(path)
    if run.result() is None:
        raise ValueError(f"{path} is not a finished run folder (see instsel status)")
    return run.manifest, open_result(run)


def score_column(scored: ScoredFile, by: str | None, manifest: Manifest) -> tuple[str, bool]:
    """The column to select by, our own by our name for it, and whether it holds IFD."""
    names = [by] if by is not None else [name for name in USUAL_SCORES if name in scored.own]
    if not names and "best" in scored.own:
        raise ValueError(
            f"{scored.path} has groups of answers: instsel export writes each one's best, and to select "
            "from those is to score them first"
        )
    if not names:
        raise _missing(scored, f"column {' or '.join(USUAL_SCORES)}", "--by")
    column = scored.find(names[0])
    if column is None:
        raise _missing(scored, f"column {names[0]!r}", "--by")
    name = scored.named(column)
    return name, name == "ifd" or (name == "score" and manifest.get("method") == "ifd")


def read_lengths(scored: ScoredFile, name: str, source: Path, manifest: Manifest, *, needed: bool) -> np.ndarray | None:
    """The rows' lengths in tokens, float64 `[n]`: a column of the result, or of the stage of a wici run that has them.

    None where there are none and none are needed.
    """
    column = scored.find(name)
    with contextlib.nullcontext() if needed else contextlib.suppress(ValueError):
        if column is not None:
            return scored.numbers(column)
        for stage in read_run(source).stages() if manifest else ():
            if stage.name == "influence":  # of wici, whose result has no lengths
                return read_run(source).column(stage, name).astype(np.float64)
    if needed:
        raise _missing(scored, f"column {name!r} with the rows' lengths", "--num-tokens")
    return None


def follows_length(score: np.ndarray, lengths: np.ndarray | None, usable: np.ndarray) -> float:
    """The rank correlation of score and length over the rows that may be selected; NaN where there are no lengths."""
    if lengths is None:
        return float("nan")
    return spearman_correlation(score[usable], lengths[usable], resamples=1).rho


def run_follows_length(folder: Path) -> tuple[str, float]:
    """The score that a finished run is selected by, and its rank correlation with the answer's length.

    NaN where the run has no score of a row by itself, or no lengths.
    """
    manifest, scored = scored_input(folder)
    try:
        by, _ = score_column(scored, None, manifest)
    except ValueError:
        return "", float("nan")
    score = scored.numbers(scored.find(by) or by)
    lengths = read_lengths(scored, "num_tokens", folder, manifest, needed=False)
    return by, follows_length(score, lengths, np.isfinite(score))


def read_left_out(
    filters: Mapping[str, float | None],
    scored: ScoredFile,
    manifest: Manifest,
    num_rows: int,
    *,
    quiet: bool = False,
    interrupts: Interrupts | None = None,
) -> list[str | None]:
    """Which filter leaves each row out for what its texts are, None where it stays (see `left_out`).

    A bar on standard error shows how far near-duplicates are. Raises ValueError where the input's columns are of no
    known format.
    """
    from instsel.selection.row_filters import left_out

    records = read_records(scored, manifest, np.arange(num_rows))
    with contextlib.closing(StageProgress("near-duplicates", num_rows, quiet=quiet)) as bar:

        def progress(done: int, total: int) -> None:
            if interrupts is not None:
                interrupts.check()
            bar.end(range(round((done - 1) / total * num_rows), round(done / total * num_rows)), 0)

        return left_out(records, filters, progress)


def read_records(scored: ScoredFile, manifest: Manifest, rows: np.ndarray) -> list[Any]:
    """Some rows of a result as the run read them, examples or groups; what cannot be read is `Unreadable`."""
    from instsel.records import to_examples, to_groups
    from instsel.records.formats import detect_layout
    from instsel.records.json_columns import whole_rows
    from instsel.records.unread_keys import UnreadKeys

    own = set(scored.own.values()) if manifest else set()
    names = [name for name in scored.columns if name not in own]
    mapping, kind = manifest.get("column_mapping"), manifest.get("unreadable", {}).get("read_as", "example")
    layout = detect_layout(names, mapping, kind=kind)
    read = to_groups if kind == "group" else to_examples
    found = whole_rows(scored.take(rows, names))
    return read(found, columns=mapping, layout=layout, unread=UnreadKeys(), on_error="status")


def read_labels(
    told: SelectionConfiguration, scored: ScoredFile, embeddings: np.ndarray | None, rows: int
) -> tuple[np.ndarray | None, list[str]]:
    """Labels of clusters, int64 `[n]`, and the names that a column gives them; None where no rule needs any."""
    from instsel.neighbors.clusters import cluster_rows
    from instsel.selection.labels import number_labels

    if told.clusters is not None:
        if told.coverage not in ("proportional", "equal"):
            raise ValueError("--clusters needs --coverage proportional or equal")
        column = scored.find(told.clusters)
        if column is None:
            raise _missing(scored, f"column {told.clusters!r}", "--clusters")
        values = scored.values(column)
        try:
            labels = number_labels(values, rows)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--clusters {told.clusters}: {error}") from None
        return labels, [str(value) for value in sorted(set(values))]
    if told.coverage is None:
        return None, []
    if embeddings is None:
        raise ValueError(f"--coverage {told.coverage} needs embeddings, and {told.input} has none: give --embeddings")
    if told.coverage == "facility-location":
        return None, []
    if len(embeddings) != rows:
        raise ValueError(f"--embeddings must have {rows} rows, one for each score, got {len(embeddings)}")
    if told.num_clusters > rows:
        raise ValueError(f"--num-clusters must be at most the {rows} rows there are, got {told.num_clusters}")
    return cluster_rows(embeddings, told.num_clusters, seed=told.seed).labels, []


def read_embeddings(given: Path | None, source: Path, manifest: Manifest, rows: int) -> tuple[np.ndarray | None, str]:
    """The embeddings that are given, or else the run folder's own, and what they are; None where there are none."""
    if given is not None:
        return read_array(given, "--embeddings"), f"{given.name} {digest_file(given)}"
    for stage in read_run(source).stages() if manifest else ():
        if stage.name == "embeddings" and stage.rows == rows:
            return read_run(source).column(stage, "embedding"), "the run's own embeddings"
    return None, "none"


def _missing(scored: ScoredFile, wanted: str, flag: str) -> ValueError:
    return ValueError(f"{scored.path} has no {wanted}; it has {', '.join(scored.columns[:30])}: name one with {flag}")
