"""What the chosen answers of groups have in common: whether they repeat themselves, and how long they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instsel.records import Group
from instsel.records.repetition import REPEATED, repeated_share, words_of
from instsel.selection.selection_inputs import read_records, scored_input

_LOOKED_AT = 2000  # groups of a run, spread evenly over it
_MANY = 0.25  # of the chosen answers
_LONGER = 1.5  # than the group's mean, or as many times shorter


@dataclass(frozen=True, slots=True)
class GroupWinners:
    """Of groups with an answer that is chosen, and another.

    groups      how many
    repeated    the share of them whose chosen answer repeats itself (more than 0.3 of its 4-grams)
    by_chance   what that share would be by choosing at random
    length      the median of the chosen answer's words over the mean of its group's answers, NaN without groups
    """

    groups: int
    repeated: float
    by_chance: float
    length: float


def winners_of(groups: Sequence[Group], best: Sequence[int]) -> GroupWinners:
    """What the answers at the places `best` of their groups are like; groups whose place is -1 do not count.

    >>> looping = Group("Say it.", responses=("no no no no no no no no", "No."))
    >>> winners_of([looping], [0])
    GroupWinners(groups=1, repeated=1.0, by_chance=0.5, length=1.6)
    """
    repeated, chance, length = [], [], []
    for group, place in zip(groups, best, strict=True):
        if place < 0 or len(group.responses) < 2:
            continue
        looping = [repeated_share(one) > REPEATED for one in group.responses]
        words = [len(words_of(one)) for one in group.responses]
        repeated.append(looping[place])
        chance.append(np.mean(looping))
        length.append(words[place] / max(float(np.mean(words)), 1.0))
    if not repeated:
        return GroupWinners(0, 0.0, 0.0, float("nan"))
    return GroupWinners(len(repeated), float(np.mean(repeated)), float(np.mean(chance)), float(np.median(length)))


def run_winners(folder: Path) -> GroupWinners | None:
    """What the best answers of a finished run of groups are like, of up to 2,000 groups; None for another run."""
    manifest, scored = scored_input(folder)
    if not {"best", "scores"} <= scored.own.keys():
        return None
    best = scored.numbers(scored.own["best"])
    rows = np.flatnonzero(best >= 0)
    rows = rows[np.arange(min(len(rows), _LOOKED_AT)) * len(rows) // max(min(len(rows), _LOOKED_AT), 1)]
    groups = read_records(scored, manifest, rows)
    return winners_of(groups, best[rows].astype(int).tolist())


def said_of_winners(found: GroupWinners) -> list[str]:
    """Lines on chosen answers that repeat themselves, or are far from their group's usual length; none where few do.

    >>> said_of_winners(GroupWinners(40, 0.9, 0.2, 2.96))[1]
    "the best answers are 3.0 times as long as their group's mean (median)"
    """
    lines = []
    if found.repeated > _MANY:
        lines.append(
            f"{found.repeated:.0%} of the best answers repeat themselves (by chance {found.by_chance:.0%}): likelihood "
            f"favours loops; --max-repetition {REPEATED:g} takes another where there is one"
        )
    if not 1 / _LONGER < found.length < _LONGER and found.groups:
        lines.append(f"the best answers are {found.length:.1f} times as long as their group's mean (median)")
    return lines
