"""`instsel select --procedure`: a whole way of selecting from a wici run, by one word."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from instsel.runs.scored_files import ScoredFile
from instsel.selection.selector import MAX_SIMILARITY

FIXED = ("by", "coverage", "clusters", "max_similarity", "draw_share")  # flags that a procedure decides
COLUMNS = ("ifd", "one_shot_ifd", "probes", "similarity")


@dataclass(frozen=True)
class Procedure:
    """What one word stands for: the rule of the scores, what keeps the rows apart, and whose it is."""

    rule: str
    coverage: str | None
    max_similarity: float | None
    draw_share: float | None
    leaves_out_unhelped: bool  # rows with an IFD above 1
    what: str


PROCEDURES = {
    "filter": Procedure(
        "gain", "proportional", None, 0.5, False,
        "quotas over clusters, drawn at random from each one's half with the higher gain: taught most",
    ),
    "gain": Procedure("gain", "proportional", None, None, False, "quotas over clusters, each one's highest gains"),
    "paper": Procedure("paper", None, MAX_SIMILARITY, None, False, "wICI and the cosine rule, as published"),
    "release": Procedure("release", None, MAX_SIMILARITY, None, True, "the same by the released program's rule"),
}  # fmt: skip


def follow_procedure(args: argparse.Namespace, scored: ScoredFile, manifest: dict[str, Any]) -> np.ndarray:
    """The scores float64 `[n]` that `--procedure` selects by; sets the flags in `args` that it decides.

    Any wici run has what every rule needs, whatever rule it was run with.

    Raises ValueError where one of these flags is given too, or the input is no wici run.
    """
    from instsel.methods.influence import score_by_rule

    procedure = PROCEDURES[args.procedure]
    given = [f"--{name.replace('_', '-')}" for name in FIXED if getattr(args, name) is not None]
    if given:
        raise ValueError(f"--procedure {args.procedure} decides {', '.join(given)}: leave one of them out")
    missing = [name for name in COLUMNS if name not in scored.own]
    if manifest.get("method") != "wici" or missing:
        raise ValueError(
            f"--procedure is for a finished run folder of instsel wici, and {args.input} is "
            + (f"one of {manifest['method']}" if manifest.get("method") not in (None, "wici") else "not one")
        )
    args.coverage = procedure.coverage
    args.max_similarity = procedure.max_similarity
    args.draw_share = procedure.draw_share
    ifd = scored.numbers(scored.own["ifd"])
    one_shot_ifd, probes, similarity = (_lists(scored, scored.own[name]) for name in COLUMNS[1:])
    probes = np.where(np.isnan(probes), -1, probes).astype(np.int64)
    score = score_by_rule(ifd, one_shot_ifd, probes, similarity, procedure.rule)
    return np.where(ifd <= 1, score, np.nan) if procedure.leaves_out_unhelped else score


def _lists(scored: ScoredFile, name: str) -> np.ndarray:
    """A column of lists as float64 `[n, k]`, NaN behind shorter ones."""
    pieces = list(scored.lists(name))
    lengths = np.concatenate([lengths for _, lengths in pieces]) if pieces else np.zeros(0, np.int64)
    found = np.full((len(lengths), int(lengths.max(initial=0))), np.nan)
    if pieces:
        found[np.arange(found.shape[1]) < lengths[:, None]] = np.concatenate([numbers for numbers, _ in pieces])
    return found


def add_procedure(parser: argparse.ArgumentParser) -> None:
    """Add the flag."""
    told = "; ".join(f"{name}: {procedure.what}" for name, procedure in PROCEDURES.items())
    parser.add_argument("--procedure", choices=tuple(PROCEDURES), help=f"of a wici run, all in one word. {told}")
