"""`instsel select`: the best rows of a scored file within a budget, different from each other or of every cluster."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsel.commands.arguments import Subcommands
from instsel.commands.flags import add_options
from instsel.commands.options import local_folder, positive, seed
from instsel.runs.interrupts import Interrupts
from instsel.runs.merged_output import FORMATS
from instsel.terminal import complain, escaped, say

if TYPE_CHECKING:
    from instsel.selection.folder_selection import WrittenSelection

_SHOWN = 24  # clusters in the summary


def add_parser(commands: Subcommands) -> None:
    """Add the command's flags."""
    from instsel.selection.procedures import DEFAULT, PROCEDURES
    from instsel.selection.selection_inputs import USUAL_SCORES
    from instsel.selection.selector import COVERAGES

    parser = commands.add_parser("select", help="the best rows of a scored file within a budget")
    parser.add_argument("input", type=Path, metavar="INPUT", help="run folder, or a file with scores")
    add_budget(parser)
    told = "; ".join(f"{name}: {procedure.what}" for name, procedure in PROCEDURES.items())
    parser.add_argument(
        "--procedure", choices=tuple(PROCEDURES),
        help=f"a whole way of selecting in one word, of a run of wici ({DEFAULT} of one of ifd too). {told}. "
        f"Default {DEFAULT} for runs of {' and '.join(PROCEDURES[DEFAULT].methods)} where none of --by, --keep-all, "
        "--coverage, --clusters, --draw-share, --max-similarity and --length-strata is given; else the highest scores",
    )  # fmt: skip
    parser.add_argument(
        "--by", metavar="COLUMN",
        help=f"score column, the run's own before one of the input; default its first of {', '.join(USUAL_SCORES)}",
    )  # fmt: skip
    parser.add_argument(
        "--keep-all", action="store_true",
        help="by ifd: also rows above 1, whose prompt does not help their answer; default without them",
    )  # fmt: skip
    parser.add_argument(
        "--coverage", choices=COVERAGES,
        help="quotas over clusters by their size or equal, or facility location; default none",
    )  # fmt: skip
    parser.add_argument("--clusters", metavar="COLUMN", help="column with labels for quotas; default k-means")
    parser.add_argument(
        "--num-clusters", type=int, default=24, metavar="K",
        help=f"of k-means over the embeddings; default 24, by {DEFAULT} at most one for every ten rows",
    )  # fmt: skip
    parser.add_argument(
        "--num-neighbors", type=int, default=32, metavar="K", help="of a row in facility location; default 32"
    )
    parser.add_argument(
        "--draw-share", type=float, metavar="S",
        help="with quotas: draw a cluster's rows at random from this share of it with the highest scores; default none "
        "are drawn",
    )  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of k-means and of what is drawn; default 0")
    parser.add_argument(
        "--max-similarity", type=float, metavar="C",
        help="cosine between selected rows, within each cluster with --coverage; default 0.9, with --coverage none",
    )  # fmt: skip
    parser.add_argument(
        "--num-tokens", default="num_tokens", metavar="COLUMN",
        help="rows' lengths for --budget-tokens and --length-strata; default num_tokens",
    )  # fmt: skip
    parser.add_argument(
        "--length-strata", type=int, metavar="K",
        help="rank rows within K parts of the pool by length, for a score that follows the answer's length; default "
        "over all rows",
    )  # fmt: skip
    parser.add_argument(
        "--leave-out", action=LeftOut, nargs="+", default={}, metavar="FILTER",
        help="rows that are: repetition[=0.3] (share of repeated 4-grams), cut-off (an answer that stops within a "
        "sentence), duplicates, near-duplicates[=0.8] (Jaccard similarity; pip install 'instsel[duplicates]'); default "
        f"all four by {DEFAULT}, near-duplicates where its package is installed, else none",
    )  # fmt: skip
    parser.add_argument("--embeddings", type=Path, metavar="NPY", help="array [rows, d]; default the run folder's own")
    parser.add_argument("--output", type=local_folder, required=True, metavar="DIR", help="folder for selected.FORMAT")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="of the result; default parquet")
    parser.add_argument("--overwrite", action="store_true", help="start again in a folder that holds another run")
    add_options(parser, "quiet")
    parser.set_defaults(run=run)


def add_budget(parser: argparse.ArgumentParser) -> None:
    """--budget and --budget-tokens, of which one is needed."""
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--budget", type=budget, metavar="N", help="rows (500) or a share (10%% or 0.1)")
    size.add_argument("--budget-tokens", type=positive, metavar="N", help="tokens; rows that do not fit are skipped")


class LeftOut(argparse.Action):
    """Words such as `repetition=0.4` as filters with their limits."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Add them to those that are there."""
        from instsel.selection.row_filters import checked_filters

        found = dict(getattr(namespace, self.dest))
        try:
            for word in values:
                name, _, limit = word.partition("=")
                found[name] = float(limit) if limit else None
            checked_filters(found)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error).removeprefix("filters: ")) from None
        setattr(namespace, self.dest, found)


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
    from instsel.selection.budget import rows_of
    from instsel.selection.folder_selection import select_into_folder
    from instsel.selection.selection_configuration import SelectionConfiguration

    given = {one.name: getattr(args, one.name) for one in fields(SelectionConfiguration)}
    found = select_into_folder(SelectionConfiguration(**given), interrupts)
    if not args.quiet:
        for line in summary(found, args.budget_tokens, ranked=args.length_strata is not None):
            say(line)
    wanted = None if args.budget is None else rows_of(args.budget, found.rows)
    if wanted is not None and found.num_clusters > wanted:
        complain("warning", "more clusters than rows to select: some of them give none")
    if wanted is not None and found.counts["selected"] < wanted:
        complain("warning", "fewer rows than the budget: the others are left out, not scored, or too similar to these")
    return 0


def summary(found: WrittenSelection, budget_tokens: int | None, *, ranked: bool = False) -> list[str]:
    """What was selected; `ranked` where rows were ranked among those of like length."""
    from instsel.selection.length_strata import said_of_length
    from instsel.selection.procedures import PROCEDURES, PUBLISHED

    counts, (by, column) = found.counts, found.by
    told = by if column == by else f"{by} (column {column})"
    rows = f"select: {counts['selected']:,} of {found.rows:,} rows by {escaped(told)}"
    lines = [f"{rows}; {counts['not_selectable']:,} not selectable"]
    procedure = PROCEDURES.get(by)
    if found.default_for is not None and procedure is not None:
        published = f"{found.default_for}'s paper selects by {PUBLISHED[found.default_for]}"
        lines.append(f"{by}, since nothing else is asked for: {procedure.what}; {published}")
    if found.could_be is not None:
        lines.append(f"not by --procedure {found.could_be[0]}, which select follows by itself: {found.could_be[1]}")
    if "above_max_score" in counts:
        above = f"{counts['above_max_score']:,} with an IFD above 1 left out"
        lines.append(f"{above}: their prompt does not help (--keep-all)")
    for name, number in counts.items():
        if name == "left_out_worst":
            lines.append(f"{number:,} left out: the highest IFD among answers of like length")
        elif name.startswith("left_out_"):
            lines.append(f"{number:,} left out: {name.removeprefix('left_out_')}")
    lines += [f"{name} were not looked for: {why}" for name, why in found.not_done.items()]
    follows = said_of_length(escaped(by), found.follows)
    if follows and "left_out_worst" not in counts:  # those are of like length
        cure = "" if ranked else ": --length-strata 10 ranks rows among those of like length"
        lines.append(f"{follows}{cure}")
    if "tokens" in counts:
        lines.append(f"{counts['tokens']:,} of {budget_tokens:,} tokens")
    if found.source is not None:
        apart = "diversity by " + escaped(found.source)
    elif "left_out_worst" in counts:
        apart = "no embeddings: drawn from the whole pool, not by clusters"
    else:
        apart = "no embeddings: similar rows were not left out"
    end = "already finished" if found.again else "written"
    return [*lines, apart, *told_clusters(found.clusters, found.num_clusters), f"{end}: {escaped(found.file)}"]


def told_clusters(divided: Mapping[str, list[int]], count: int) -> list[str]:
    """Lines on clusters: how many rows each has, and how many of them are selected; `count` with those not kept."""
    if not divided:
        return []
    shown = [f"{escaped(name, limit=40)} {taken:,}/{size:,}" for name, (size, taken) in divided.items()][:_SHOWN]
    more = f", and {count - len(shown):,} more" if count > len(shown) else ""
    return [f"clusters ({count:,}; selected/rows): " + ", ".join(shown) + more]
