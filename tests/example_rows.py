"""Rows in Alpaca's format, written in the small model's vocabulary: no two alike, some with an input; and probes."""

from __future__ import annotations

import numpy as np

WORDS = ("the", "thing", "in", "a", "king", "sing", "answer", "theory")


def example_rows(count: int) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"say the {WORDS[i % 8]} {i}",
            "input": "in the thing " * (i % 3),
            "output": " ".join(WORDS[(i * j + j) % 8] for j in range(1, 3 + i % 7)),
        }
        for i in range(count)
    ]


def drawn_probes(count: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Other rows [count, width], and cosines to them."""
    rng = np.random.default_rng(seed)
    others = (np.arange(count)[:, None] + rng.integers(1, count, (count, width))) % count  # never the row itself
    return others, rng.uniform(-1, 1, (count, width))
