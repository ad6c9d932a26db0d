"""The benchmarks' work: requests of random token ids with the lengths of real data, the same for a seed everywhere.

| name | what | sizes by default |
|---|---|---|
| wici-k5 | wICI as the paper sets it: answer alone, after its prompt, and 5 probes after each demonstration | 64 rows |
| wici-k32 | the same with 32 probes | 16 rows |
| grape-5 | five answers a question, lengths of gsm8k model solutions | 64 questions |
| grape-10 | ten answers an instruction, lengths of self-instruct answers | 32 instructions |
| anchors-100 | one-shot scores of 100 anchors after each demonstration, as NUGGETS does | 4 demonstrations |
| few-shot-4 | a header of 1,000 tokens, questions, four options of 2 to 6 tokens each | 100 questions |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from lengths import load_lengths

HEADER_TOKENS = 1000
OPTION_TOKENS = (2, 6)


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests (context ids, continuation ids).

    `alone[i]` is the request that scores the same answer as request i with no context, -1 where the method needs
    none: the released programs compute it anew for every request that is to be divided by it.
    """

    name: str
    size: int
    requests: list[tuple[list[int], list[int]]]
    alone: np.ndarray

    def __len__(self) -> int:
        return len(self.requests)


class _Ids:
    """Seeded token ids from 2 on: 0 and 1 are for BOS and EOS."""

    def __init__(self, vocabulary: int, seed: int) -> None:
        self.vocabulary = vocabulary
        self.generator = np.random.default_rng(seed)

    def __call__(self, count: int) -> list[int]:
        return self.generator.integers(2, self.vocabulary, count).tolist()

    def rows(self, population: int, size: int) -> list[int]:
        """Rows without repetition; with more than there are, all of them again."""
        rounds = [self.generator.permutation(population) for _ in range(-(-size // population))]
        return np.concatenate(rounds)[:size].tolist()


def _alpaca(ids: _Ids, size: int, shorten: int) -> list[tuple[list[int], list[int]]]:
    pairs = load_lengths().pairs
    return [
        (ids(max(pairs[i][0] // shorten, 1)), ids(max(pairs[i][1] // shorten, 1))) for i in ids.rows(len(pairs), size)
    ]


def _wici(ids: _Ids, size: int, shorten: int, probes: int) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """For each row: answer alone, answer after its prompt, and probes (other rows) after it as a demonstration."""
    rows = _alpaca(ids, max(size, probes + 1), shorten)
    requests = [([0], answer) for _, answer in rows]
    alone = [-1] * len(rows)
    for a, (prompt, answer) in enumerate(rows[:size]):
        requests.append((prompt, answer))
        alone.append(a)
        others = np.delete(np.arange(len(rows)), a)
        for b in ids.generator.choice(others, probes, replace=False).tolist():
            requests.append((prompt + answer + rows[b][0], rows[b][1]))
            alone.append(b)
    return requests, alone


def _grape(ids: _Ids, size: int, shorten: int, answers: int) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Answers to each question; where the data has fewer, lengths of those it has are drawn again."""
    data = load_lengths()
    groups = data.maths if answers <= 5 else data.instructions
    requests = []
    for row in ids.rows(len(groups), size):
        prompt_length, lengths = groups[row]
        again = ids.generator.choice(lengths, max(answers - len(lengths), 0)).tolist()
        prompt = ids(max(prompt_length // shorten, 1))
        requests += [(prompt, ids(max(length // shorten, 1))) for length in [*lengths[:answers], *again]]
    return requests, [-1] * len(requests)


def _anchors(ids: _Ids, size: int, shorten: int, anchors: int) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Every anchor once by itself and once after each demonstration."""
    rows = _alpaca(ids, anchors + size, shorten)
    fixed, demonstrations = rows[:anchors], rows[anchors:]
    requests = list(fixed)
    requests += [(prompt + answer + question, reply) for prompt, answer in demonstrations for question, reply in fixed]
    return requests, [-1] * len(requests)


def _few_shot(ids: _Ids, size: int, shorten: int, options: int) -> tuple[list[tuple[list[int], list[int]]], list[int]]:
    """Short options to questions of gsm8k's lengths under one header."""
    groups = load_lengths().maths
    header = ids(HEADER_TOKENS // shorten)
    requests = []
    for row in ids.rows(len(groups), size):
        question = header + ids(max(groups[row][0] // shorten, 1))
        requests += [
            (question, ids(int(ids.generator.integers(*OPTION_TOKENS, endpoint=True)))) for _ in range(options)
        ]
    return requests, [-1] * len(requests)


_Make = Callable[[_Ids, int, int, int], tuple[list[tuple[list[int], list[int]]], list[int]]]
_KINDS: dict[str, tuple[_Make, int, int]] = {  # how to make it, its branching, its size by default
    "wici-k5": (_wici, 5, 64),
    "wici-k32": (_wici, 32, 16),
    "grape-5": (_grape, 5, 64),
    "grape-10": (_grape, 10, 32),
    "anchors-100": (_anchors, 100, 4),
    "few-shot-4": (_few_shot, 4, 100),
}
NAMES = tuple(_KINDS)


def make_workload(
    name: str,
    *,
    vocabulary: int,
    size: int | None = None,
    branching: int | None = None,
    shorten: int = 1,
    seed: int = 0,
) -> Workload:
    """A workload by name.

    size       candidates, groups, demonstrations or questions
    branching  probes, answers, anchors or options, where not as in the name
    shorten    divides all lengths, for a quick try
    """
    make, usual, default = _KINDS[name]
    size = default if size is None else size
    requests, alone = make(_Ids(vocabulary, seed), size, shorten, usual if branching is None else branching)
    return Workload(name, size, requests, np.array(alone, np.int64))
