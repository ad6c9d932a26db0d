"""Rows in Alpaca's format, written in the small model's vocabulary: no two alike, some with an input."""

from __future__ import annotations

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
