"""`instsel select`: the best rows of a scored file within a budget, none too similar to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import instsel
from instsel.commands.options import add_quiet
from instsel.runs import RunFolder
from instsel.runs.durable_files import digest_file
from instsel.runs.interrupts import Interrupts
from instsel.runs.manifest import environment, read_manifest
from instsel.runs.merged_output import FORMATS, write_table
from instsel.runs.scored_files import ScoredFile
from instsel.runs.shards import Stage
from instsel.terminal import complain, escaped, say

_USUAL_SCORES = ("score", "ifd", "mean_logprob")  # of wici, ifd, score


def add_parser(commands: Any) -> None:
    """Add the command's flags."""
    parser = commands.add_parser("select", help="the best rows of a scored file within a budget")
    parser.add_argument("input", type=Path, metavar="INPUT", help="run folder, or a file with scores")
    parser.add_argument("--budget", type=budget, required=True, metavar="N", help="rows (500) or a share (10%% or 0.1)")
    parser.add_argument("--by", metavar="COLUMN", help=f"score column; default the first of {', '.join(_USUAL_SCORES)}")
    parser.add_argument("--max-similarity", type=float, default=0.9, metavar="C", help="cosine between selected rows")
    parser.add_argument("--embeddings", type=Path, metavar="NPY", help="array [rows, d]; default the run folder's own")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for selected.FORMAT")
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
    from instsel.selection import select

    manifest, path = _scored_path(args.input)
    scored = ScoredFile(path)
    by = _score_column(scored, args.by)
    score = scored.numbers(by)
    usable = scored.equals("status", "ok") if "status" in scored.columns else np.ones(len(score), bool)
    if "selectable" in scored.columns:
        usable &= scored.equals("selectable", True)
    embeddings, source = _embeddings(args, manifest, len(score))
    rows = select(score, args.budget, embeddings=embeddings, max_similarity=args.max_similarity, selectable=usable)
    settings = {
        "version": instsel.__version__,
        "method": "select",
        "input_digest": digest_file(path),
        "parameters": {"budget": args.budget, "by": by, "max_similarity": args.max_similarity, "embeddings": source},
    }
    about = {"input": str(path), "environment": environment(), "compared": ["format", *settings]}
    folder = RunFolder(args.output, settings, about, overwrite=args.overwrite, interrupts=interrupts)
    try:
        name = f"selected.{args.format}"
        with folder.explained(), interrupts.held():
            table = scored.take(rows)
            numbered = "row" if "row" not in table.column_names else "instsel_row"
            write_table(folder.path, name, table.append_column(numbered, pa.array(rows)))
        folder.save(state="finished", counts={"selected": len(rows)}, rows=len(score), output={"name": name})
    finally:
        folder.close()
    if not args.quiet:
        say(f"select: {len(rows):,} of {len(score):,} rows by {escaped(by)}; {int((~usable).sum()):,} not selectable")
        say("no embeddings: similar rows were not left out" if embeddings is None else f"diversity by {source}")
        say(f"written: {escaped(str(folder.path / name))}")
    if len(rows) < (args.budget if isinstance(args.budget, int) else int(args.budget * len(score))):
        complain("warning", "fewer rows than the budget: no others are scored and different enough")
    return 0


def _scored_path(path: Path) -> tuple[dict[str, Any], Path]:
    """The manifest and the result of a run folder, or a file and an empty manifest."""
    if not path.is_dir():
        if not path.is_file():
            raise ValueError(f"input {path} is not a regular file" if path.exists() else f"input {path} does not exist")
        return {}, path
    manifest, _ = read_manifest(path)
    output = (manifest or {}).get("output") or {}
    if manifest is None or manifest.get("state") != "finished" or not (path / output.get("name", "?")).is_file():
        raise ValueError(f"{path} is not a finished run folder (see instsel status)")
    return manifest, path / output["name"]


def _score_column(scored: ScoredFile, by: str | None) -> str:
    names = [by] if by is not None else [name for name in _USUAL_SCORES if name in scored.columns]
    if not names or names[0] not in scored.columns:
        wanted = f"column {by!r}" if by is not None else f"column {' or '.join(_USUAL_SCORES)}"
        raise ValueError(f"{scored.path} has no {wanted}; it has {', '.join(scored.columns[:30])}: name one with --by")
    return names[0]


def _embeddings(args: argparse.Namespace, manifest: dict[str, Any], rows: int) -> tuple[np.ndarray | None, str]:
    if args.embeddings is not None:
        try:
            return np.load(
                args.embeddings, allow_pickle=False
            ), f"{args.embeddings.name} {digest_file(args.embeddings)}"
        except (ValueError, EOFError):  # what NumPy says of a file that is none speaks of loading pickles
            raise ValueError(f"--embeddings {args.embeddings} is not a .npy file of numbers") from None
    for name, count, shard_rows in manifest.get("stages", ()):
        if name == "embeddings" and count == rows:
            stage = Stage(name, count, shard_rows, lambda rows: ({}, {}))
            folder = RunFolder.reopen(args.input, manifest)
            try:
                return folder.shards.columns(stage)["embedding"], "the run's own embeddings"
            finally:
                folder.close()
    return None, "none"
