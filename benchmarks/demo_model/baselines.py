"""Every score that the evaluation sets side by side, each turned so that a higher one is what its method prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from instsel.methods.ifd import DifficultyResult

# What each method would select first, as it is published or commonly used.
DIRECTIONS = {
    "wICI": "highest wICI (paper)",
    "wICI, release rule": "highest wICI (released program)",
    "wICI, gain": "highest rise of the probes' log-probability",
    "IFD": "highest IFD",
    "perplexity": "lowest PPL(y|x)",
    "length": "longest answer, in tokens",
    "random": "a random order",
}


def side_by_side(
    paper: np.ndarray, release: np.ndarray, gain: np.ndarray, difficulty: DifficultyResult, seed: int
) -> dict[str, np.ndarray]:
    """Scores float64 [n] by the names of `DIRECTIONS`; NaN where a row has none."""
    random_order = np.random.default_rng(seed).random(len(paper))
    scores = (
        paper, release, gain, difficulty.ifd, difficulty.conditional, difficulty.num_tokens.astype(np.float64),
        random_order,
    )  # fmt: skip
    return dict(zip(DIRECTIONS, scores, strict=True))
