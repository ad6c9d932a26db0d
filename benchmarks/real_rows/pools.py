"""Pools of real rows with rows held out from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from real_rows import plan
from real_rows.damage import Row, damaged_rows

from instsel.demo.tuning import Pair, encode_rows
from instsel.records import to_examples
from instsel.records.files import read_rows


@dataclass(frozen=True)
class Pool:
    """Candidates and rows held out, each with its token ids of prompt and answer.

    kinds    what was done to each candidate, "clean" for nothing
    anchors  rows that are neither candidates nor held out
    sources  of each held-out row: the name of its file
    """

    rows: list[Row]
    pairs: list[Pair]
    kinds: np.ndarray
    held_out: list[Row]
    sources: np.ndarray
    anchors: list[Row]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each candidate's answer."""
        return np.array([len(answer) for _, answer in self.pairs])


def usable_rows(files: Sequence[Path], tokenizer: Any) -> list[tuple[Row, str]]:
    """Rows of at most `LONGEST` tokens that have an answer, no prompt and no answer twice, with their files' names."""
    found, seen = [], set()
    for path in files:
        for example in to_examples(read_rows(path)):
            row = {"instruction": example.instruction, "input": example.input, "output": example.response.strip()}
            texts = {("prompt", example.instruction, example.input), ("answer", row["output"])}
            if row["output"] and not texts & seen:
                seen |= texts
                found.append((row, path.stem))
    pairs = encode_rows(tokenizer, [row for row, _ in found], plan.TEMPLATE)
    return [
        one for one, (prompt, answer) in zip(found, pairs, strict=True) if len(prompt) + len(answer) <= plan.LONGEST
    ]


def draw_pool(rows: Sequence[tuple[Row, str]], seed: int, damaged: float, tokenizer: Any) -> Pool:
    """A pool, a share of it damaged, and held-out rows as they are; damaged rows that became too long stay.

    The same seed draws the same rows, whatever the share. Raises ValueError where there are too few.
    """
    wanted = plan.POOL_SIZE + plan.HELD_OUT
    if len(rows) < wanted:
        raise ValueError(
            f"rows: expected at least {wanted} different ones of at most {plan.LONGEST} tokens, got {len(rows)}"
        )
    drawn = random.Random(f"rows {seed}").sample(list(rows), wanted)
    fresh, candidates = drawn[: plan.HELD_OUT], [row for row, _ in drawn[plan.HELD_OUT :]]
    candidates, kinds = damaged_rows(candidates, damaged, seed)
    held_out = [row for row, _ in fresh]
    taken = {id(row) for row, _ in drawn}
    others = [row for row, _ in rows if id(row) not in taken]
    return Pool(
        rows=candidates,
        pairs=encode_rows(tokenizer, candidates, plan.TEMPLATE),
        kinds=np.array(kinds),
        held_out=held_out,
        sources=np.array([source for _, source in fresh]),
        anchors=random.Random(f"anchors {seed}").sample(others, min(plan.ANCHORS, len(others))),
    )
