"""What is compared, decided before any result was looked at.

The grid runs on the exploring seeds. Whatever is chosen on them is run again, once, on the confirming seeds, which no
choice has seen; the curves over budgets, the checks of robustness and every interval that the documentation states
first are of the confirming seeds alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EXPLORING = tuple(range(8))
CONFIRMING = tuple(range(100, 108))
TUNING_SEEDS = (2000, 2001)  # of the learning rate, which is chosen on random subsets of pools that nothing else uses

POOL_SIZE = 1000
HELD_OUT = 200
EPOCHS = 4
BATCH = 10  # examples a step
LEARNING_RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
BUDGET = 0.1
BUDGETS = (0.05, 0.2, 0.4)
CLUSTERS = 24
MAX_SIMILARITY = 0.9  # the papers' cosine rule
DRAW_SHARE = 0.5  # of each cluster, where rows are drawn from its better half

SCORES = (
    "random", "truth", "length", "perplexity low", "perplexity high", "ifd high", "ifd low", "wici paper",
    "wici release", "gain", "nuggets", "miwv",
)  # fmt: skip
SMALL_SUBSETS, SMALL_SIZE = 16, 30  # of each exploring pool: does influence predict what tuning gains?
STYLE_ROWS = 100


@dataclass(frozen=True)
class PoolKey:
    """A pool: its seed, and the share of each of the five classes that are not clean (0.08 is the demo's: 40 %).

    Of somebody's own pool, the share of all rows whose answers are exchanged.
    """

    seed: int
    corrupted: float = 0.08

    @property
    def name(self) -> str:
        """As files of the pool are named."""
        return f"{self.seed}-{self.corrupted}"


@dataclass(frozen=True)
class Trial:
    """One tuning: which rows of which pool, and how they are chosen. `part` is the table that it belongs to."""

    part: str
    pool: PoolKey
    score: str
    coverage: str = "none"
    budget: float = BUDGET
    clusters: int = CLUSTERS
    embeddings: str = "model"

    @property
    def name(self) -> str:
        """What is compared: the same for all seeds."""
        return "/".join(
            f"{part}" for part in (
                self.score, self.coverage, self.budget, self.clusters, self.embeddings, self.pool.corrupted,
            )
        )  # fmt: skip


def grid(pool: PoolKey) -> Iterator[Trial]:
    """Every score at a budget of 10 % of the rows, by itself and with quotas in proportion over clusters."""
    for score in SCORES:
        for coverage in ("none", "proportional"):
            yield Trial("grid", pool, score, coverage)


# What is run on fresh seeds: the proposal, the published procedure, and what they have to be held against. The proposal
# was not planned: it was chosen on six seeds of the grid, where the rows with a cluster's highest gain were nearly all
# clean, and alike; drawing from the cluster's better half keeps them apart.
PROPOSED = ("gain", "drawn")
PUBLISHED = ("wici paper", "cosine")
CONFIRMED = (
    PROPOSED, PUBLISHED, ("random", "none"), ("random", "proportional"), ("truth", "none"), ("truth", "proportional"),
    ("gain", "proportional"),
)  # fmt: skip
CURVES = (PROPOSED, ("random", "none"), ("truth", "none"))


def confirmation(pool: PoolKey) -> Iterator[Trial]:
    """What was proposed and what it is held against, on a fresh seed, and how robust it is."""
    for score, coverage in CONFIRMED:
        yield Trial("confirmation", pool, score, coverage)
    for clusters in (12, 48):
        yield Trial("clusters", pool, *PROPOSED, clusters=clusters)
    yield Trial("embeddings", pool, *PROPOSED, embeddings="MiniLM")


def corruption(pool: PoolKey) -> Iterator[Trial]:
    """The same on a pool with less corruption."""
    for score, coverage in (PROPOSED, ("random", "none"), ("truth", "none")):
        yield Trial("corruption", pool, score, coverage)


def curves(pool: PoolKey, budgets: tuple[float, ...] = BUDGETS[:-1], part: str = "budgets") -> Iterator[Trial]:
    """Held-out loss against the budget."""
    for budget in budgets:
        for score, coverage in CURVES:
            yield Trial(part, pool, score, coverage, budget)


def large_budget(pool: PoolKey) -> Iterator[Trial]:
    """The last point of the curves, which takes most of their time."""
    return curves(pool, BUDGETS[-1:], "large budget")


def units() -> dict[str, list[tuple[PoolKey, tuple[Trial, ...]]]]:
    """All trials by part and pool; a unit is done by one process."""
    old, fresh = [PoolKey(seed) for seed in EXPLORING], [PoolKey(seed) for seed in CONFIRMING]
    less = [PoolKey(seed, share) for share in (0.0, 0.04) for seed in CONFIRMING]
    parts = (
        ("grid", grid, old), ("confirmation", confirmation, fresh), ("budgets", curves, fresh),
        ("large budget", large_budget, fresh), ("corruption", corruption, less),
    )  # fmt: skip
    return {name: [(pool, tuple(trials(pool))) for pool in pools] for name, trials, pools in parts}
