"""Requests laid out in packs: each group's shared prefix once, then what is each request's own."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

from workloads import Workload


@dataclass(slots=True)
class Pack:
    """Tokens that go through the model in one forward, and the rows whose logits are needed."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    group: list[int] = field(default_factory=list)
    member: list[int] = field(default_factory=list)  # -1 for a prefix, which the whole group sees
    members: dict[int, list[int]] = field(default_factory=dict)  # of each group
    rows: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)  # of each row

    def sequences(self) -> list[list[int]]:
        """The sequences that each token belongs to, counted within the pack."""
        number = {member: i for i, member in enumerate(m for members in self.members.values() for m in members)}
        whole = {group: [number[member] for member in members] for group, members in self.members.items()}
        return [
            whole[group] if member == -1 else [number[member]]
            for group, member in zip(self.group, self.member, strict=True)
        ]

    def append(self, work: Workload, members: list[int], group: int) -> None:
        """Puts (a part of) a group behind what is there."""
        shared = work.shared[members[0]]
        begin = len(self.ids)
        context, continuation = work.requests[members[0]]
        self._extend((context + continuation)[:shared], 0, group, -1)
        self.members[group] = members
        for i in members:
            context, continuation = work.requests[i]
            sequence = context + continuation
            offset = len(self.ids) - shared
            self._extend(sequence[shared:-1], shared, group, i)
            for position in range(len(context) - 1, len(sequence) - 1):
                self.rows.append(position + (begin if position < shared else offset))
                self.targets.append(sequence[position + 1])
                self.requests.append(i)

    def _extend(self, ids: list[int], start: int, group: int, member: int) -> None:
        self.ids += ids
        self.positions += range(start, start + len(ids))
        self.group += [group] * len(ids)
        self.member += [member] * len(ids)


def packs_of(work: Workload, budget: int, *, most: float = math.inf) -> list[Pack]:
    """Packs of at most `budget` tokens (more for one longer request) and `most` requests, group after group."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, ((context, continuation), shared) in enumerate(zip(work.requests, work.shared, strict=True)):
        groups[tuple((context + continuation)[:shared]) if shared else (-1, i)].append(i)
    packs = [Pack()]
    for number, members in enumerate(groups.values()):
        for part in _parts(work, members, budget, most):
            fits = len(packs[-1].ids) + _tokens(work, part) <= budget
            fits = fits and sum(map(len, packs[-1].members.values())) + len(part) <= most
            if number in packs[-1].members or (packs[-1].ids and not fits):
                packs.append(Pack())
            packs[-1].append(work, part, number)
    return packs


def _tokens(work: Workload, members: list[int]) -> int:
    shared = work.shared[members[0]]
    return shared + sum(max(sum(map(len, work.requests[i])) - shared - 1, 0) for i in members)


def _parts(work: Workload, members: list[int], budget: int, most: float) -> list[list[int]]:
    """A group in parts of at most `budget` tokens, its prefix repeated in each."""
    parts: list[list[int]] = [[]]
    for i in members:
        if parts[-1] and (_tokens(work, [*parts[-1], i]) > budget or len(parts[-1]) >= most):
            parts.append([])
        parts[-1].append(i)
    return parts
