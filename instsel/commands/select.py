"""`instsel select`: the best rows of a scored file within a budget, different from each other or of every cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import instsel
from instsel.commands.configuration import recorded_arguments
from instsel.commands.named_files import files_named_by
from instsel.commands.options import add_quiet, local_folder
from instsel.commands.procedures import add_procedure, follow_procedure
from instsel.commands.selection_inputs import (
    USUAL_SCORES,
    read_embeddings,
    read_labels,
    read_lengths,
    score_column,
    scored_input,
)
from instsel.runs import RunFolder
from instsel.runs.column_names import allot_names
from instsel.runs.durable_files import digest_file
from instsel.runs.interrupts import Interrupts
from instsel.runs.manifest import environment
from instsel.runs.merged_output import FORMATS, write_table
from instsel.runs.results import describe_result
from instsel.terminal import complain, escaped, say

_SHOWN = 24  # clusters in the summary
_KEPT = 1000  # clusters in the manifest


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    from instsel.selection.selector import COVERAGES

    parser = commands.add_parser("select", help="the best rows of a scored file within a budget")
    parser.add_argument("input", type=Path, metavar="INPUT", help="run folder, or a file with scores")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--budget", type=budget, metavar="N", help="rows (500) or a share (10%% or 0.1)")
    size.add_argument("--budget-tokens", type=int, metavar="N", help="tokens; rows that do not fit are skipped")
    add_procedure(parser)
    parser.add_argument(
        "--by", metavar="COLUMN",
        help=f"score column, the run's own before one of the input; default its first of {', '.join(USUAL_SCORES)}",
    )  # fmt: skip
    parser.add_argument(
        "--keep-all", action="store_true", help="by ifd: also rows above 1, whose prompt does not help their answer"
    )
    parser.add_argument(
        "--coverage", choices=COVERAGES, help="quotas over clusters by their size or equal, or facility location"
    )
    parser.add_argument("--clusters", metavar="COLUMN", help="column with labels for quotas; default k-means")
    parser.add_argument("--num-clusters", type=int, default=24, metavar="K", help="of k-means over the embeddings")
    parser.add_argument("--num-neighbors", type=int, default=32, metavar="K", help="of a row in facility location")
    parser.add_argument(
        "--draw-share",
        type=float,
        metavar="S",
        help="with quotas: draw a cluster's rows at random from this share of it with the highest scores",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of k-means and of --draw-share")
    parser.add_argument(
        "--max-similarity",
        type=float,
        metavar="C",
        help="cosine between selected rows, within each cluster with --coverage; default 0.9, with --coverage none",
    )
    parser.add_argument(
        "--num-tokens", default="num_tokens", metavar="COLUMN", help="rows' lengths for --budget-tokens"
    )
    parser.add_argument("--embeddings", type=Path, metavar="NPY", help="array [rows, d]; default the run folder's own")
    parser.add_argument("--output", type=local_folder, required=True, metavar="DIR", help="folder for selected.FORMAT")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the result")
    parser.add_argument("--overwrite", action="store_true", help="start again in a folder that holds another run")
    add_quiet(parser)
    parser.set_defaults(run=run)


def budget(text: str) -> int | float:
    """A count of rows, or a share of them above 0 and at most 1 (or 100 %)."""
    try:
        if text.endswith("%"):
            value: int | float = float(text[:-1]) / 100
        else:
            value = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number of rows or a share such as 10%, got {text!r}") from None
    if value <= 0 or (isinstance(value, float) and not value <= 1):
        raise argparse.ArgumentTypeError(f"expected at least 1 row, or a share above 0 and at most 100 %, got {text!r}")
    return value


def run(args: argparse.Namespace, interrupts: Interrupts) -> int:
    """Select rows and write them, best first."""
    from instsel.selection.selector import MAX_SIMILARITY, select

    manifest, scored = scored_input(args.input)
    path, own = scored.path, scored.own
    arguments = recorded_arguments(args)
    if args.procedure is not None:
        score, by, is_ifd = follow_procedure(args, scored, manifest), args.procedure, False
    else:
        by, is_ifd = score_column(scored, args.by, manifest)
        score = scored.numbers(scored.find(by) or by)
    usable = scored.equals(own["status"], "ok") if "status" in own else np.ones(len(score), bool)
    if "selectable" in own and args.procedure is None:
        usable &= scored.equals(own["selectable"], True)
    max_score = 1.0 if is_ifd and not args.keep_all else None
    embeddings, source = read_embeddings(args.embeddings, args.input, manifest, len(score))
    similarity = args.max_similarity
    if similarity is None and args.coverage is None:
        similarity = MAX_SIMILARITY
    labels, names = read_labels(args, scored, embeddings, len(score))
    lengths = read_lengths(scored, args.num_tokens) if args.budget_tokens is not None else None
    rows = select(
        score,
        args.budget,
        budget_tokens=args.budget_tokens,
        num_tokens=lengths,
        embeddings=embeddings,
        max_similarity=similarity,
        selectable=usable,
        max_score=max_score,
        coverage=args.coverage,
        clusters=labels,
        num_neighbors=args.num_neighbors,
        draw_share=args.draw_share,
        seed=args.seed,
    )
    by_kmeans = labels is not None and args.clusters is None
    parameters = {
        "budget": args.budget,
        "budget_tokens": args.budget_tokens,
        "num_tokens": args.num_tokens if lengths is not None else None,
        **({} if args.procedure is None else {"procedure": args.procedure}),
        **({} if args.draw_share is None else {"draw_share": args.draw_share}),
        "by": by,
        "max_score": max_score,
        "max_similarity": similarity,
        "coverage": args.coverage,
        "clusters": args.clusters,
        "num_clusters": args.num_clusters if by_kmeans else None,
        "seed": args.seed if by_kmeans or args.draw_share is not None else None,
        "num_neighbors": args.num_neighbors if args.coverage == "facility-location" else None,
        "embeddings": source,
    }
    settings = {
        "version": instsel.__version__,
        "method": "select",
        "input_digest": digest_file(path),
        "parameters": parameters,
    }
    counts = {"selected": len(rows), "not_selectable": int((~usable).sum())}
    if max_score is not None:
        counts["above_max_score"] = int((usable & (score > max_score)).sum())
    if lengths is not None:
        counts["tokens"] = int(lengths[rows].sum())
    divided = {} if labels is None else cluster_counts(labels, names, rows)
    findings = {"clusters": dict(list(divided.items())[:_KEPT]), "num_clusters_found": len(divided)} if divided else {}
    about = {
        "input": str(path),
        "environment": environment(),
        "arguments": arguments,
        "compared": ["format", *settings],
    }
    inputs = [path, *files_named_by(vars(args))]
    folder = RunFolder(args.output, settings, about, overwrite=args.overwrite, inputs=inputs, interrupts=interrupts)
    try:
        name = f"selected.{args.format}"
        with folder.explained(), interrupts.held():
            table = scored.take(rows)
            added = {"row": pa.array(rows)}
            if by_kmeans and labels is not None:
                added["cluster"] = pa.array(labels[rows])
            columns = {**own, **allot_names(added, table.column_names)}
            for column, values in added.items():
                table = table.append_column(columns[column], values)
            write_table(folder.path, name, table, columns)
            output = describe_result(folder.path / name, columns)
        folder.finish(counts=counts, rows=len(score), output=output, findings=findings)
    finally:
        folder.close()
    if not args.quiet:
        left_out = f"{counts['not_selectable']:,} not selectable"
        column = scored.find(by) or by
        told = by if column == by else f"{by} (column {column})"
        say(f"select: {len(rows):,} of {len(score):,} rows by {escaped(told)}; {left_out}")
        if max_score is not None:
            say(f"{counts['above_max_score']:,} with an IFD above 1 left out: their prompt does not help (--keep-all)")
        if lengths is not None:
            say(f"{counts['tokens']:,} of {args.budget_tokens:,} tokens")
        say(
            "no embeddings: similar rows were not left out" if embeddings is None else f"diversity by {escaped(source)}"
        )
        for line in told_clusters(divided):
            say(line)
        say(f"written: {escaped(str(folder.path / name))}")
    if divided and args.budget is not None and len(divided) > wanted_rows(args.budget, len(score)):
        complain("warning", "more clusters than rows to select: only those with the best rows give one")
    if args.budget is not None and len(rows) < wanted_rows(args.budget, len(score)):
        complain("warning", "fewer rows than the budget: no others are scored and different enough")
    return 0


def wanted_rows(budget: int | float, size: int) -> int:
    """The rows that a budget asks for."""
    return budget if isinstance(budget, int) else int(budget * size)


def cluster_counts(labels: np.ndarray, names: list[str], rows: np.ndarray) -> dict[str, list[int]]:
    """Of each cluster by its name its rows and how many are selected, the largest first."""
    number, place = np.unique(labels, return_inverse=True)
    size, taken = np.bincount(place), np.bincount(place[rows], minlength=len(number))
    return {
        names[i] if names else str(number[i]): [int(size[i]), int(taken[i])] for i in np.argsort(-size, kind="stable")
    }


def told_clusters(divided: dict[str, list[int]]) -> list[str]:
    """Lines on clusters: how many rows each has, and how many of them are selected."""
    if not divided:
        return []
    shown = [f"{escaped(name, limit=40)} {taken:,}/{size:,}" for name, (size, taken) in divided.items()][:_SHOWN]
    more = f", and {len(divided) - len(shown):,} more" if len(divided) > len(shown) else ""
    return [f"clusters ({len(divided):,}; selected/rows): " + ", ".join(shown) + more]
