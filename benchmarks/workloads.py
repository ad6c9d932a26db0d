"""The benchmarks' work: requests of random token ids with the lengths of real data, the same for a seed everywhere.

| name | what | size by default |
|---|---|---|
| wici-k5 | wICI as the paper sets it: answers alone, after their prompts, 5 probes after each demonstration | 64 rows |
| wici-k32 | the same with 32 probes | 16 rows |
| grape-5 | five answers a question, lengths of gsm8k model solutions | 64 questions |
| grape-10 | ten answers an instruction, lengths of self-instruct answers | 32 instructions |
| anchors-100 | 100 anchors by themselves and after each demonstration, as NUGGETS does | 4 demonstrations |
| nuggets-200 | 200 anchors by themselves and after each of many demonstrations | 64 demonstrations |
| few-shot-4 | a header of 1,000 tokens, questions, four options of 2 to 6 tokens each | 100 questions |
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from lengths import load_lengths

HEADER_TOKENS = 1000
OPTION_TOKENS = (2, 6)
BOS = 0

Ids = list[int]


@dataclass(slots=True)
class Workload:
    """Requests (context ids, continuation ids), and what the ways of scoring them may know of their making.

    shared      tokens of each request's sequence that it has in common with its group (0: it has no group). An
                engineer who reuses keys and values by hand knows this; instsel finds it by itself
    recomputed  whether a released program scores the continuation with no context anew beside this request
    influences  for wICI: per demonstration the requests (alone, after the prompt) of it, and per probe (its own row,
                the one-shot request)
    """

    name: str
    size: int
    requests: list[tuple[Ids, Ids]] = field(default_factory=list)
    shared: list[int] = field(default_factory=list)
    recomputed: list[bool] = field(default_factory=list)
    influences: list[list[tuple[int, int]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.requests)

    def add(self, context: Ids, continuation: Ids, *, shared: int = 0, recomputed: bool = False) -> int:
        """Appends a request and gives its index."""
        self.requests.append((context, continuation))
        self.shared.append(shared)
        self.recomputed.append(recomputed)
        return len(self.requests) - 1

    def part(self, first: int, last: int) -> Workload:
        """The requests from `first` to before `last`, for trials."""
        chosen = slice(first, last)
        return Workload(self.name, self.size, self.requests[chosen], self.shared[chosen], self.recomputed[chosen])


class _Random:
    """Seeded token ids, from 2 on (0 and 1 stand for BOS and EOS), and choices of rows."""

    def __init__(self, vocabulary: int, seed: int, shorten: int) -> None:
        self.vocabulary = vocabulary
        self.generator = np.random.default_rng(seed)
        self.shorten = shorten

    def ids(self, length: int) -> Ids:
        return self.generator.integers(2, self.vocabulary, max(length // self.shorten, 1)).tolist()

    def rows(self, population: int, size: int) -> list[int]:
        """Rows without repetition; where more are asked for than there are, all of them again."""
        rounds = [self.generator.permutation(population) for _ in range(-(-size // population))]
        return np.concatenate(rounds)[:size].tolist()

    def alpaca(self, size: int) -> list[tuple[Ids, Ids]]:
        """Prompts and answers."""
        pairs = load_lengths().pairs
        return [(self.ids(pairs[i][0]), self.ids(pairs[i][1])) for i in self.rows(len(pairs), size)]


def _wici(work: Workload, random: _Random, probes: int) -> None:
    rows = random.alpaca(max(work.size, probes + 1))
    for _, answer in rows[: work.size]:
        work.add([BOS], answer)
    for a, (prompt, answer) in enumerate(rows[: work.size]):
        demonstration = prompt + answer
        work.add(prompt, answer, shared=len(demonstration), recomputed=True)
        others = np.delete(np.arange(len(rows)), a)
        work.influences.append([])
        for b in random.generator.choice(others, probes, replace=False).tolist():
            context = demonstration + rows[b][0]
            one_shot = work.add(context, rows[b][1], shared=len(demonstration), recomputed=True)
            work.influences[a].append((b, one_shot))


def _grape(work: Workload, random: _Random, answers: int) -> None:
    """Answers to each question; where the data has fewer, lengths of those it has are drawn again."""
    data = load_lengths()
    groups = data.maths if answers <= 5 else data.instructions
    for row in random.rows(len(groups), work.size):
        prompt_length, lengths = groups[row]
        again = random.generator.choice(lengths, max(answers - len(lengths), 0)).tolist()
        prompt = random.ids(prompt_length)
        for length in [*lengths[:answers], *again]:
            work.add(prompt, random.ids(length), shared=len(prompt))


def _anchors(work: Workload, random: _Random, anchors: int) -> None:
    rows = random.alpaca(anchors + work.size)
    for prompt, answer in rows[:anchors]:
        work.add(prompt, answer)
    for prompt, answer in rows[anchors:]:
        for question, reply in rows[:anchors]:
            work.add(prompt + answer + question, reply, shared=len(prompt) + len(answer))


def _few_shot(work: Workload, random: _Random, options: int) -> None:
    groups = load_lengths().maths
    header = random.ids(HEADER_TOKENS)
    for row in random.rows(len(groups), work.size):
        context = header + random.ids(groups[row][0])
        for _ in range(options):
            length = int(random.generator.integers(*OPTION_TOKENS, endpoint=True))
            work.add(context, random.generator.integers(2, random.vocabulary, length).tolist(), shared=len(header))


_KINDS = {  # how it is made, its branching, its size by default
    "wici-k5": (_wici, 5, 64),
    "wici-k32": (_wici, 32, 16),
    "grape-5": (_grape, 5, 64),
    "grape-10": (_grape, 10, 32),
    "anchors-100": (_anchors, 100, 4),
    "nuggets-200": (_anchors, 200, 64),
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
    shorten    divides the lengths, for a quick try
    """
    make, usual, default = _KINDS[name]
    work = Workload(name, default if size is None else size)
    make(work, _Random(vocabulary, seed, shorten), usual if branching is None else branching)
    return work


def influence(work: Workload, mean_logprob: np.ndarray) -> np.ndarray | None:
    """Mean influence of each demonstration on its probes, `PPL(y_b|a, x_b) / PPL(y_b) - PPL(y_b|x_b) / PPL(y_b)`.

    None unless the workload is wICI with every probe among its rows.
    """
    if not work.influences or max(b for pairs in work.influences for b, _ in pairs) >= work.size:
        return None
    alone = np.arange(work.size)
    conditional = np.array([pairs[0][1] - 1 for pairs in work.influences])
    difficulty = np.exp(mean_logprob[alone] - mean_logprob[conditional])
    return np.array(
        [np.mean([np.exp(mean_logprob[b] - mean_logprob[i]) - difficulty[b] for b, i in p]) for p in work.influences]
    )
