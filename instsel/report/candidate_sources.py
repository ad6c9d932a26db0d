"""Where the candidate answers of groups are from, and how often an answer of each source is a group's best."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from instsel.records.formats import detect_layout
from instsel.report.scored_runs import Run

KEYS = ("source", "model")  # of a candidate, by default


@dataclass(frozen=True, slots=True)
class SourceCount:
    """Of one source: the groups that have an answer of it, those whose best it is, and how many it would be by chance.

    Chance takes one of a group's answers at random.
    """

    groups: int
    wins: int
    by_chance: float


@dataclass(frozen=True, slots=True)
class CandidateSources:
    """Sources of a pool of groups.

    key     what the candidates call it
    winner  int64 [n], the number of the source of each group's best answer, -1 where it has none
    counts  of each source by its name, in the order of these numbers
    """

    key: str
    winner: np.ndarray
    counts: dict[str, SourceCount]


def read_sources(run: Run, key: str | None = None) -> CandidateSources | None:
    """The sources of a run's candidates, by the key that they give it; None where it has no groups or these none."""
    best = run.column("best")
    if best is None or run.column("scores") is None:
        return None
    try:
        column = detect_layout(run.original, run.manifest.get("column_mapping"), kind="group").columns.get("candidates")
    except ValueError:
        return None
    if column is None:
        return None
    keys = KEYS if key is None else (key,)
    pieces = run.scored.pieces(column)  # whose texts are not held
    groups = [[_source(one, keys) for one in group or ()] for piece in pieces for group in piece]
    found = next((one for group in groups for one in group if one is not None), None)
    return None if found is None else _counted(found[0], groups, run.scored.numbers(best))


def _source(candidate: object, keys: Sequence[str]) -> tuple[str, str] | None:
    if isinstance(candidate, dict):
        for key in keys:
            if isinstance(value := candidate.get(key), (str, int)):
                return key, str(value)
    return None


def _counted(key: str, groups: Sequence[Sequence[tuple[str, str] | None]], best: np.ndarray) -> CandidateSources:
    number: dict[str, int] = {}
    having, wins = Counter[str](), Counter[str]()
    chance: defaultdict[str, float] = defaultdict(float)
    winner = np.full(len(groups), -1, np.int64)
    for row, (group, place) in enumerate(zip(groups, best.tolist(), strict=True)):
        names = ["none" if one is None else one[1] for one in group]
        for name in names:
            number.setdefault(name, len(number))
        if not 0 <= place < len(names):  # nothing of the group was scored
            continue
        winner[row] = number[names[int(place)]]
        wins[names[int(place)]] += 1
        for name, several in Counter(names).items():
            having[name] += 1
            chance[name] += several / len(names)
    return CandidateSources(key, winner, {name: SourceCount(having[name], wins[name], chance[name]) for name in number})
