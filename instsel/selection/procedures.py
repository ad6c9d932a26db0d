"""`instsel select --procedure`: a whole way of selecting from a run of wici or ifd, by one word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from instsel.runs.manifest_shape import Manifest
from instsel.runs.scored_files import ScoredFile
from instsel.selection.length_strata import rank_within_strata
from instsel.selection.quotas import drawn_without_worst
from instsel.selection.selection_configuration import SelectionConfiguration
from instsel.selection.selector import MAX_SIMILARITY

FIXED = ("by", "coverage", "clusters", "max_similarity", "draw_share")  # flags that a procedure decides
COLUMNS = ("ifd", "one_shot_ifd", "probes", "similarity")
DEFAULT = "recommended"
WORST_STRATA = 5  # parts of the pool by length, in each of which the worst are looked for: IFD follows the length
PUBLISHED = {"wici": "--procedure paper", "ifd": "--by ifd"}  # how to get what each method's paper selects


@dataclass(frozen=True)
class Procedure:
    """What one word stands for: the rule of the scores, what keeps the rows apart, and whose it is.

    rule         one of wici's rules, or "ifd": a low IFD is a high score
    methods      whose runs have what the rule needs
    worst_share  where it is given: this share of each cluster, with the lowest scores among answers of like length, is
                 left out and the rest drawn at random; without embeddings the whole pool is one cluster
    leave_out    the filters on the rows themselves (see `row_filters`), where none are asked for
    """

    rule: str
    coverage: str | None
    max_similarity: float | None
    draw_share: float | None
    leaves_out_unhelped: bool  # rows with an IFD above 1
    what: str
    methods: tuple[str, ...] = ("wici",)
    worst_share: float | None = None
    leave_out: tuple[str, ...] = ()


PROCEDURES = {
    DEFAULT: Procedure(
        "ifd", "proportional", None, None, False,
        "answers that repeat themselves or are cut off and duplicates left out, then of each cluster the fifth with "
        "the highest IFD among answers of like length, whose prompt helps least; the rest drawn at random, by quotas "
        "over clusters where there are embeddings",
        methods=("wici", "ifd"), worst_share=0.2,
        leave_out=("repetition", "cut-off", "duplicates", "near-duplicates"),
    ),
    "filter": Procedure(
        "gain", "proportional", None, 0.5, False,
        "quotas over clusters, drawn at random from each one's half with the higher gain",
    ),
    "gain": Procedure("gain", "proportional", None, None, False, "quotas over clusters, each one's highest gains"),
    "paper": Procedure("paper", None, MAX_SIMILARITY, None, False, "wICI and the cosine rule, as published"),
    "release": Procedure("release", None, MAX_SIMILARITY, None, True, "the same by the released program's rule"),
}  # fmt: skip


def default_procedure(
    configuration: SelectionConfiguration, scored: ScoredFile, manifest: Manifest
) -> tuple[str | None, str]:
    """The procedure of a selection that asks for none; None, and what keeps it from one, where that is a flag or file.

    Flags that a procedure decides keep a selection from one; who names a score knows what is asked for.
    """
    if configuration.procedure is not None or configuration.by is not None or "ifd" not in scored.own:
        return None, ""
    if not manifest:
        return None, f"{configuration.input} is a file, and no run folder"
    if manifest.get("method") not in PROCEDURES[DEFAULT].methods:
        return None, ""
    asked = [name for name in (*FIXED, "length_strata") if getattr(configuration, name) is not None]
    asked += ["keep_all"] if configuration.keep_all else []
    flags = [f"--{name.replace('_', '-')}" for name in asked]
    return (None, f"{', '.join(flags)} decides otherwise") if flags else (DEFAULT, "")


def worst_share(name: str | None) -> float | None:
    """The share of each cluster that a procedure leaves out before it draws; None for those that do not."""
    return None if name is None else PROCEDURES[name].worst_share


def drawn_without_unhelped(
    score: np.ndarray,
    usable: np.ndarray,
    labels: np.ndarray | None,
    lengths: np.ndarray | None,
    share: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`drawn_without_worst` of clusters, or of the whole pool, the worst being those of like length where it is known.

    `score` float64 `[n]`, `usable` bool `[n]`, `labels` int64 `[n]`, `lengths` `[n]`. Gives float64 `[n]`, bool `[n]`.
    """
    if lengths is not None:
        score = rank_within_strata(score, lengths, usable & np.isfinite(score), WORST_STRATA)
    whole = np.zeros(len(score), np.int64) if labels is None else labels
    return drawn_without_worst(score, usable, whole, share, seed)


def follow_procedure(
    configuration: SelectionConfiguration, scored: ScoredFile, manifest: Manifest
) -> tuple[SelectionConfiguration, np.ndarray]:
    """The configuration with all that its procedure decides, and the scores float64 `[n]` that it selects by.

    Any wici run has what every rule needs, whatever rule it was run with.

    Raises ValueError where what it decides is given too, or the input is no run that it is for.
    """
    assert configuration.procedure is not None
    procedure = PROCEDURES[configuration.procedure]
    fixed = FIXED if procedure.worst_share is None else (*FIXED, "length_strata")
    given = [f"--{name.replace('_', '-')}" for name in fixed if getattr(configuration, name) is not None]
    if given:
        raise ValueError(f"--procedure {configuration.procedure} decides {', '.join(given)}: leave one of them out")
    method = manifest.get("method")
    needed = COLUMNS[:1] if procedure.rule == "ifd" else COLUMNS
    if method not in procedure.methods or any(name not in scored.own for name in needed):
        raise ValueError(
            f"--procedure {configuration.procedure} is for a finished run folder of instsel "
            f"{' or '.join(procedure.methods)}, and {configuration.input} is "
            + (f"one of {method}" if method not in (None, *procedure.methods) else "not one")
        )
    score = _scores(procedure, scored)
    decided: dict[str, Any] = {name: getattr(procedure, name) for name in ("coverage", "max_similarity", "draw_share")}
    decided["leave_out"] = configuration.leave_out or dict.fromkeys(procedure.leave_out)
    if procedure.worst_share is not None:  # a share of a cluster is one row at least
        most = max(1, int(procedure.worst_share * len(score)))
        decided["num_clusters"] = min(configuration.num_clusters, most)
    return replace(configuration, **decided), score


def _scores(procedure: Procedure, scored: ScoredFile) -> np.ndarray:
    from instsel.methods.influence import score_by_rule

    ifd = scored.numbers(scored.own["ifd"])
    if procedure.rule == "ifd":
        return -ifd
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
