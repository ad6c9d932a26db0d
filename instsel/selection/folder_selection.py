"""Selections from scored files into folders, as `instsel select` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

import instsel
from instsel.runs import RunFolder
from instsel.runs.arguments import files_named_by, recorded_arguments
from instsel.runs.column_names import allot_names
from instsel.runs.durable_files import digest_file
from instsel.runs.interrupts import Interrupts
from instsel.runs.manifest import environment
from instsel.runs.manifest_shape import Manifest
from instsel.runs.merged_output import write_table
from instsel.runs.results import describe_result
from instsel.runs.scored_files import ScoredFile
from instsel.selection.procedures import (
    DEFAULT,
    WORST_STRATA,
    default_procedure,
    drawn_without_unhelped,
    follow_procedure,
    worst_share,
)
from instsel.selection.row_filters import filters_at_hand, recorded_filters
from instsel.selection.selection_configuration import SelectionConfiguration
from instsel.selection.selection_inputs import (
    follows_length,
    read_embeddings,
    read_labels,
    read_left_out,
    read_lengths,
    score_column,
    scored_input,
)
from instsel.selection.selector import MAX_SIMILARITY, select

_KEPT = 1000  # clusters in the manifest


@dataclass(frozen=True, slots=True)
class WrittenSelection:
    """What was selected.

    file          with the selected rows, best first
    rows          how many there were to select from
    by            the score or procedure, and the column that holds it
    source        of the embeddings by which rows are kept apart; None where there are none
    counts        rows selected, not selectable, left out, and tokens
    clusters      of each by its name its rows and how many are selected; the largest of very many
    num_clusters  how many there are
    follows       rank correlation of the score with the answer's length; NaN where no length is known
    default_for   the method whose run it is, where a procedure was followed that nobody had asked for
    could_be      the procedure that would have been followed but for what the second says; None where none would
    not_done      filters of a procedure that were not applied, with the reason
    again         whether it was finished before this call, which then selected nothing
    """

    file: str
    rows: int
    by: tuple[str, str]
    source: str | None
    counts: Mapping[str, int]
    clusters: Mapping[str, list[int]]
    num_clusters: int
    follows: float
    default_for: str | None = None
    could_be: tuple[str, str] | None = None
    not_done: Mapping[str, str] = field(default_factory=dict)
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Rows int64 [k], best first; labels int64 [n] and names of clusters, if any; counts for the manifest."""

    rows: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    counts: dict[str, int]


def select_into_folder(configuration: SelectionConfiguration, interrupts: Interrupts | None = None) -> WrittenSelection:
    """Select rows of a scored file and write them to a folder, best first; a folder that holds them stays as it is.

    Raises ValueError or TypeError naming the flag, and RunError for the disk.
    """
    interrupts = interrupts or Interrupts()
    manifest, scored = scored_input(configuration.input)
    default_for = None
    default, kept_from_it = default_procedure(configuration, scored, manifest)
    if default is not None:
        configuration, default_for = replace(configuration, procedure=default), manifest["method"]
    told = configuration  # and what its procedure decides
    not_done: dict[str, str] = {}
    path, own = scored.path, scored.own
    if told.procedure is not None:
        by, is_ifd = told.procedure, False
        told, score = follow_procedure(told, scored, manifest)
        if not configuration.leave_out:
            at_hand, not_done = filters_at_hand(told.leave_out)
            told = replace(told, leave_out=at_hand)
    else:
        by, is_ifd = score_column(scored, told.by, manifest)
        score = scored.numbers(scored.find(by) or by)
    usable = scored.equals(own["status"], "ok") if "status" in own else np.ones(len(score), bool)
    if "selectable" in own and told.procedure is None:
        usable &= scored.equals(own["selectable"], True)
    max_score = 1.0 if is_ifd and not told.keep_all else None
    embeddings, source = read_embeddings(told.embeddings, told.input, manifest, len(score))
    share = worst_share(told.procedure)
    if embeddings is None and share is not None:
        told = replace(told, coverage=None)
    elif told.max_similarity is None and told.coverage is None:
        told = replace(told, max_similarity=MAX_SIMILARITY)
    needed = told.budget_tokens is not None or told.length_strata is not None
    lengths = read_lengths(scored, told.num_tokens, told.input, manifest, needed=needed)
    by_kmeans = told.coverage in ("proportional", "equal") and told.clusters is None
    drawn = told.draw_share is not None or share is not None
    parameters = {
        "budget": told.budget,
        "budget_tokens": told.budget_tokens,
        "num_tokens": told.num_tokens if needed else None,
        **({} if told.procedure is None else {"procedure": told.procedure}),
        **({} if told.draw_share is None else {"draw_share": told.draw_share}),
        **({} if share is None else {"worst_share": share, "worst_strata": None if lengths is None else WORST_STRATA}),
        **({} if told.length_strata is None else {"length_strata": told.length_strata}),
        **({} if not told.leave_out else {"leave_out": recorded_filters(told.leave_out)}),
        "by": by,
        "max_score": max_score,
        "max_similarity": told.max_similarity,
        "coverage": told.coverage,
        "clusters": told.clusters,
        "num_clusters": told.num_clusters if by_kmeans else None,
        "seed": told.seed if by_kmeans or drawn else None,
        "num_neighbors": told.num_neighbors if told.coverage == "facility-location" else None,
        "embeddings": source,
    }
    settings = {
        "version": instsel.__version__,
        "method": "select",
        "input_digest": digest_file(path),
        "parameters": parameters,
    }
    about = {
        "input": str(path),
        "environment": environment(),
        "arguments": recorded_arguments(configuration.arguments()),
        "compared": ["format", *settings],
    }
    inputs = [path, *files_named_by(configuration.arguments())]
    folder = RunFolder(told.output, settings, about, overwrite=told.overwrite, inputs=inputs, interrupts=interrupts)
    name = f"selected.{told.format}"
    try:
        again = folder.is_finished(name)
        if not again:
            chosen = _choose(told, scored, manifest, score, usable, embeddings, lengths, max_score, share, interrupts)
            _write(folder, name, scored, chosen, by_kmeans, len(score), manifest.get("column_mapping"))
        written, file = folder.manifest, str(folder.path / name)
    finally:
        folder.close()
    clusters = written["findings"].get("clusters", {})
    return WrittenSelection(
        file,
        len(score),
        (by, scored.find(by) or by),
        None if embeddings is None else source,
        written["counts"],
        clusters,
        written["findings"].get("num_clusters_found", len(clusters)),
        follows_length(score, lengths, usable),
        default_for,
        (DEFAULT, kept_from_it) if kept_from_it else None,
        not_done,
        again,
    )


def _choose(
    told: SelectionConfiguration,
    scored: ScoredFile,
    manifest: Manifest,
    score: np.ndarray,
    usable: np.ndarray,
    embeddings: np.ndarray | None,
    lengths: np.ndarray | None,
    max_score: float | None,
    share: float | None,
    interrupts: Interrupts,
) -> _Chosen:
    """What is told, with its procedure's decisions, on the scores `score` of the rows that are `usable`."""
    labels, names = read_labels(told, scored, embeddings, len(score))
    reasons: list[str | None] = []
    if told.leave_out:
        reasons = read_left_out(told.leave_out, scored, manifest, len(score), quiet=told.quiet, interrupts=interrupts)
        usable = usable & np.array([reason is None for reason in reasons])
    worst = np.zeros(len(score), bool)
    if share is not None:
        score, worst = drawn_without_unhelped(score, usable, labels, lengths, share, told.seed)
    rows = select(
        score,
        told.budget,
        budget_tokens=told.budget_tokens,
        num_tokens=lengths,
        embeddings=embeddings,
        max_similarity=told.max_similarity,
        selectable=usable,
        max_score=max_score,
        coverage=told.coverage,
        clusters=labels,
        num_neighbors=told.num_neighbors,
        draw_share=told.draw_share,
        length_strata=told.length_strata,
        seed=told.seed,
    )
    counts = {"selected": len(rows), "not_selectable": int((~usable).sum())}
    if max_score is not None:
        counts["above_max_score"] = int((usable & (score > max_score)).sum())
    for name in told.leave_out:
        counts[f"left_out_{name}"] = reasons.count(name)
    if share is not None:
        counts["left_out_worst"] = int(worst.sum())
    if lengths is not None and told.budget_tokens is not None:
        counts["tokens"] = int(lengths[rows].sum())
    return _Chosen(rows, labels, names, counts)


def _write(
    folder: RunFolder,
    name: str,
    scored: ScoredFile,
    chosen: _Chosen,
    by_kmeans: bool,
    size: int,
    mapping: Mapping[str, str] | None,
) -> None:
    """Write the rows, and the manifest over them."""
    rows, labels = chosen.rows, chosen.labels
    divided = {} if labels is None else cluster_counts(labels, chosen.names, rows)
    findings = {"clusters": dict(list(divided.items())[:_KEPT]), "num_clusters_found": len(divided)} if divided else {}
    with folder.explained(), folder.interrupts.held():
        table = scored.take(rows, texts=(mapping or {}).values())
        added = {"row": pa.array(rows)}
        if by_kmeans and labels is not None:
            added["cluster"] = pa.array(labels[rows])
        columns = {**scored.own, **allot_names(added, table.column_names)}
        for column, values in added.items():
            table = table.append_column(columns[column], values)
        # Of lines of JSON, a key that none of the selected rows has.
        columns = {column: named for column, named in columns.items() if named in table.column_names}
        write_table(folder.path, name, table, columns)
        output = describe_result(folder.path / name, columns)
    folder.finish(counts=chosen.counts, rows=size, output=output, findings=findings)


def cluster_counts(labels: np.ndarray, names: list[str], rows: np.ndarray) -> dict[str, list[int]]:
    """Of each cluster by its name its rows and how many are selected, the largest first."""
    number, place = np.unique(labels, return_inverse=True)
    size, taken = np.bincount(place), np.bincount(place[rows], minlength=len(number))
    return {
        names[i] if names else str(number[i]): [int(size[i]), int(taken[i])] for i in np.argsort(-size, kind="stable")
    }
