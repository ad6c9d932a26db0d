"""What is compared on real rows, decided before any result was looked at.

A seed draws a pool and held-out rows out of a file, what is damaged, what a rule draws, and the order of tuning. The
rules run on the exploring seeds; the one that leads there on damaged pools is named in `CONFIRMED` and runs again on
the confirming seeds, beside what it is held against. Pools of one file overlap: an interval over seeds is of other
draws from that file, not of other files.

Sizes were set by the time that a processor takes, before any loss was seen: rows of at most `LONGEST` tokens, so that
nothing is cut, and a softmax in tuning over those tokens alone that stand in the pool's answers (the held-out loss is
over the whole vocabulary).

Not planned: "filters, ifd below 1, coverage", added when what scores see of the damage was known of one exploring seed,
and the losses of three of its tunings; both forms of "recommended", added when `LED` had led on the damaged exploring
pools and no rule had been tried on the confirming ones: what `select` made of that rule, which leaves the worst fifth
out before the quotas, with embeddings and without; and, when the five confirming seeds had left its interval on damaged
pools open (-0.015, -0.042 to +0.013), ten further seeds, so many whatever they show, and two more rules to explore;
random rows with the tokens of the recommended ones, when these had turned out a tenth longer; and, when all of these
had been measured, other budgets, NUGGETS, and whether a score predicts what tuning on random rows gains.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EXPLORING = tuple(range(5))
CONFIRMING = tuple(range(100, 105))
FURTHER = tuple(range(105, 115))
RATE_SEED = 2000  # of the learning rate, which is chosen on a random subset of a pool that nothing else uses

LONGEST = 256  # tokens of prompt and answer; longer rows are left out of pools and held-out rows alike
POOL_SIZE = 560
HELD_OUT = 100
ANCHORS = 16  # rows of the same file, in no pool and not held out, whose answers NUGGETS' demonstrations are to help
QUESTIONS = 60  # with right and wrong answers, where a file of these is given
DAMAGED = 0.2  # of the pool, in equal parts over the kinds of damage
TEMPLATE = "alpaca"
RATES = (3e-4, 1e-3, 3e-3)
LORA_RANK = 16
EPOCHS = 2
BATCH = 8
BUDGET = 0.1
OTHER_BUDGETS = (0.05, 0.3)
CLUSTERS = 24
STRATA = 5  # of answers' lengths

RANDOM, COVERED, KNOWN = "random", "random, coverage", "clean rows, coverage"
SEEN, FOLLOWED = "none: what scores see", "none: what influence follows"
BY_INFLUENCE = ("wici as published", "wici of like length", "gain, coverage", "half with higher gain, coverage")
LED = "filters, less worst fifth of like length, coverage"
RECOMMENDED = ("recommended", "recommended, coverage")  # a run without embeddings, and one with them
LONGER = "recommended, longer half"
HALVED = "recommended, less worst half"  # not the worst fifth
BY_ANCHORS = ("nuggets", "filters, nuggets, coverage")  # by the share of anchors helped, and by the mean gain
AS_LONG = "random, coverage, tokens of recommended"  # as many rows as have as many tokens as those recommended
SUBSETS = tuple(f"random subset {number}" for number in range(8))
FIRST = (RANDOM, COVERED, LED)
THEN = (
    *RECOMMENDED, LONGER, HALVED, "filters, ifd below 1, coverage", "filters, coverage",
    "filters, less worst tenth, coverage", "filters, less worst fifth, coverage", "ifd high", "longest",
    "ifd high of like length", "perplexity low", "perplexity middle",
)  # fmt: skip
CONFIRMED: tuple[str, ...] = RECOMMENDED  # `LED` led on all exploring seeds


@dataclass(frozen=True)
class Cell:
    """One tuning: a rule's rows of one pool, and the loss on the rows held out."""

    seed: int
    damaged: float
    rule: str
    budget: float = BUDGET
    rate: float = 0.0  # 0: the one chosen


def rate_cells() -> Iterator[Cell]:
    """The tunings that choose the learning rate."""
    for rate in RATES:
        yield Cell(RATE_SEED, 0.0, RANDOM, rate=rate)


def detection_cells() -> Iterator[Cell]:
    """What scores and filters see of the damage, without tuning."""
    for seed in (*EXPLORING, *CONFIRMING):
        yield Cell(seed, DAMAGED, SEEN)


def _both(seeds: tuple[int, ...], rules: tuple[str, ...], only_damaged: tuple[str, ...] = ()) -> Iterator[Cell]:
    """Rules on damaged pools, then on the same pools as they are."""
    for damaged in (DAMAGED, 0.0):
        for seed in seeds:
            for rule in (*rules, *(only_damaged if damaged else ())):
                yield Cell(seed, damaged, rule)


def exploring_cells() -> Iterator[Cell]:
    """Every rule on damaged pools and on pools as they are: first those that may be recommended, then the others."""
    for rules, known in ((FIRST, ()), (THEN, (KNOWN,))):
        yield from _both(EXPLORING, rules, known)


def confirming_cells() -> Iterator[Cell]:
    """What leads, random rows and random rows with coverage, on seeds that chose nothing."""
    yield from _both(CONFIRMING, (RANDOM, COVERED, *CONFIRMED) if CONFIRMED else ())


def further_cells() -> Iterator[Cell]:
    """The same on more seeds: first what is recommended against random rows with coverage."""
    for rules in ((COVERED, *CONFIRMED[:1]), (RANDOM, *CONFIRMED[1:])) if CONFIRMED else ():
        yield from _both(FURTHER, rules)


def token_cells() -> Iterator[Cell]:
    """Whether the recommended rows are better for being longer."""
    yield from _both(CONFIRMING, (AS_LONG,))


def influence_cells() -> Iterator[Cell]:
    """wICI, which takes the longest to score: what it follows, then what its rules select, on the exploring seeds."""
    for rules in ((FOLLOWED,), BY_INFLUENCE):
        yield from _both(EXPLORING, rules)


def budget_cells() -> Iterator[Cell]:
    """Whether another budget changes what is recommended."""
    for budget in OTHER_BUDGETS:
        for seed in CONFIRMING:
            for rule in (COVERED, RECOMMENDED[0]):
                yield Cell(seed, DAMAGED, rule, budget)


def anchor_cells() -> Iterator[Cell]:
    """NUGGETS, which is told what is wanted by examples of it."""
    yield from _both(EXPLORING, BY_ANCHORS)


def subset_cells() -> Iterator[Cell]:
    """Whether random rows with a higher mean of a score teach more, on the pools whose influence is scored first."""
    for seed in EXPLORING:
        for rule in SUBSETS:
            yield Cell(seed, DAMAGED, rule)


PARTS = {
    "rate": rate_cells, "detection": detection_cells, "exploring": exploring_cells, "confirming": confirming_cells,
    "further": further_cells, "tokens": token_cells, "influence": influence_cells,
    "budgets": budget_cells, "anchors": anchor_cells, "subsets": subset_cells,
}  # fmt: skip
