"""The rows that a rule selects, by `instsel.select` as anybody would call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from real_rows import plan
from real_rows.damage import CLEAN
from real_rows.pools import Pool

import instsel
from instsel.methods.influence import score_by_rule
from instsel.neighbors.clusters import cluster_rows
from instsel.records import to_examples
from instsel.selection.procedures import DEFAULT, drawn_without_unhelped, worst_share
from instsel.selection.row_filters import ROW_FILTERS, left_out
from instsel.selection.selector import MAX_SIMILARITY


@dataclass
class Scored:
    """A pool and what the rules ask of it; a score is computed when a rule first asks for it."""

    pool: Pool
    seed: int
    difficulties: Callable[[], np.ndarray]
    embeddings: Callable[[], np.ndarray]
    influences: Callable[[], Mapping[str, np.ndarray]]
    anchored: Callable[[], Mapping[str, np.ndarray]]

    @cached_property
    def chance(self) -> np.ndarray:
        """A score that says nothing."""
        return np.random.default_rng([self.seed, 1]).random(len(self.pool.rows))

    @cached_property
    def labels(self) -> np.ndarray:
        """The cluster of each row."""
        return cluster_rows(self.embeddings(), plan.CLUSTERS, seed=self.seed).labels

    @cached_property
    def conditional(self) -> np.ndarray:
        """Mean log-probability of each answer after its prompt."""
        return self.difficulties()[:, 1]

    @cached_property
    def ifd(self) -> np.ndarray:
        """`PPL(y|x) / PPL(y)`."""
        direct, conditional = self.difficulties().T
        return np.exp(direct - conditional)

    def influence(self, rule: str) -> np.ndarray:
        """What each row does as a demonstration, by a rule of wICI."""
        return score_by_rule(**self.influences(), rule=rule)

    @cached_property
    def passed(self) -> np.ndarray:
        """Rows that no filter on their texts leaves out."""
        found = left_out(to_examples(self.pool.rows), dict.fromkeys(ROW_FILTERS))
        return np.array([one is None for one in found])


def selected_rows(rule: str, scored: Scored, budget: float) -> np.ndarray:
    """Rows int64 [m], m the budget's share of the pool."""
    count = max(1, int(budget * len(scored.pool.rows)))
    lengths = scored.pool.lengths
    by_cluster = "coverage" in rule
    spread = {"coverage": "proportional", "clusters": scored.labels} if by_cluster else {}
    strata = {"length_strata": plan.STRATA, "num_tokens": lengths} if "of like length" in rule else {}
    if rule == plan.AS_LONG:
        wanted = lengths[selected_rows(plan.RECOMMENDED[0], scored, budget)].sum()
        sizes = range(1, len(lengths) + 1)
        drawn = (instsel.select(scored.chance, size, **spread) for size in sizes)
        return next(rows for rows in drawn if lengths[rows].sum() >= wanted)
    if rule in plan.SUBSETS:
        drawn = np.random.default_rng([scored.seed, 2, plan.SUBSETS.index(rule)])
        return np.sort(drawn.permutation(len(lengths))[:count])
    if rule == plan.KNOWN:
        return instsel.select(scored.chance, count, selectable=scored.pool.kinds == CLEAN, **spread)
    if rule in (*plan.RECOMMENDED, plan.LONGER, plan.HALVED):  # as `select --procedure recommended` does it
        labels = scored.labels if by_cluster else None
        share = 0.5 if rule == plan.HALVED else worst_share(DEFAULT)
        drawn, _ = drawn_without_unhelped(-scored.ifd, scored.passed, labels, lengths, share, scored.seed)
        if rule == plan.LONGER:
            drawn = np.where(lengths >= np.median(lengths[np.isfinite(drawn)]), drawn, np.nan)
        return instsel.select(drawn, count, selectable=scored.passed, **spread)
    if rule in plan.BY_ANCHORS:  # the published rule takes the highest; its filters and coverage are ours
        if rule == plan.BY_ANCHORS[0]:
            return instsel.select(scored.anchored()["wins"], count)
        return instsel.select(scored.anchored()["gain"], count, selectable=scored.passed, **spread)
    if rule.startswith("filters"):
        left = {"worst tenth": 0.9, "worst fifth": 0.8}
        for words, share in left.items():
            if words in rule:  # the prompt helps these least
                return instsel.select(
                    -scored.ifd, count, selectable=scored.passed, draw_share=share, seed=scored.seed, **spread, **strata
                )
        helped = scored.ifd <= 1 if "ifd below 1" in rule else True
        return instsel.select(scored.chance, count, selectable=scored.passed & helped, **spread)
    if rule.startswith("ifd high"):
        return instsel.select(scored.ifd, count, max_score=1.0, **strata)
    if rule == "wici as published":
        return instsel.select(
            scored.influence("paper"), count, embeddings=scored.embeddings(), max_similarity=MAX_SIMILARITY
        )
    if rule == "wici of like length":
        return instsel.select(scored.influence("paper"), count, **strata)
    if rule in ("gain, coverage", "half with higher gain, coverage"):
        drawn = {"draw_share": 0.5, "seed": scored.seed} if rule.startswith("half") else {}
        return instsel.select(scored.influence("gain"), count, **spread, **drawn)
    if rule == "perplexity middle":
        return instsel.select(-np.abs(scored.conditional - np.median(scored.conditional)), count)
    score = {
        plan.RANDOM: lambda: scored.chance, plan.COVERED: lambda: scored.chance, "longest": lambda: lengths,
        "perplexity low": lambda: scored.conditional,
    }[rule]()  # fmt: skip
    return instsel.select(score, count, **spread)
