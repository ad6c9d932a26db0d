"""Pools with rows held out from them: the demo's generator, whose truth is known, or anybody's own JSONL files."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from claims.plan import HELD_OUT, POOL_SIZE, PoolKey

from instsel.demo.generator import make_held_out_rows, make_pool

FIELDS = ("instruction", "input", "output")


@dataclass(frozen=True)
class Pool:
    """Candidates, rows held out from them, and each candidate's truth class and family ("" where unknown)."""

    rows: list[dict[str, str]]
    held_out: list[dict[str, str]]
    truth: np.ndarray
    family: np.ndarray


def demo_pool(key: PoolKey, size: int = POOL_SIZE, held_out: int = HELD_OUT) -> Pool:
    """A pool of the demo's generator; the held-out rows are clean, of the same families and hidden conventions."""
    rows = make_pool(key.seed, size, corrupted_share=key.corrupted)
    fresh = make_held_out_rows(key.seed, held_out, pool_size=size, corrupted_share=key.corrupted)
    return Pool(
        rows=[{name: row[name] for name in FIELDS} for row in rows],
        held_out=[{name: row[name] for name in FIELDS} for row in fresh],
        truth=np.array([row["truth"] for row in rows]),
        family=np.array([row["family"] for row in rows]),
    )


def exchange_answers(pool: Pool, key: PoolKey) -> Pool:
    """The pool with the answers of `key.corrupted` of its rows handed round: each of these has another row's answer."""
    if not key.corrupted:
        return pool
    rng = np.random.default_rng([key.seed, 1])
    exchanged = rng.choice(len(pool.rows), round(key.corrupted * len(pool.rows)), replace=False).tolist()
    rows = list(pool.rows)
    for row, other in zip(exchanged, exchanged[1:] + exchanged[:1], strict=True):
        rows[row] = {**pool.rows[row], "output": pool.rows[other]["output"]}
    truth = np.where(np.isin(np.arange(len(rows)), exchanged), "other instruction", "clean")
    return replace(pool, rows=rows, truth=truth)


def file_pool(
    pool: Path, held_out: Path | None, seed: int, size: int, held_out_size: int, tokenizer: Any, longest: int
) -> Pool:
    """A random part of a file of examples, and rows held out: of another file, or others of the same one.

    Rows of more than `longest` tokens, and rows without an answer, are left out before anything is drawn.
    """
    from instsel.demo.tuning import encode_rows
    from instsel.records.examples import to_examples
    from instsel.records.files import read_rows

    def usable(path: Path) -> list[dict[str, str]]:
        rows = [
            {"instruction": example.instruction, "input": example.input, "output": example.response}
            for example in to_examples(read_rows(path))
        ]
        rows = [row for row in rows if row["output"].strip()]
        return [
            row for row, (prompt, answer) in zip(rows, encode_rows(tokenizer, rows), strict=True)
            if len(prompt) + len(answer) <= longest
        ]  # fmt: skip

    rng = random.Random(f"rows {seed}")
    rows = usable(pool)
    rng.shuffle(rows)
    if held_out is None:
        fresh, rows = rows[:held_out_size], rows[held_out_size:]
    else:
        fresh = usable(held_out)
        rng.shuffle(fresh)
    rows, fresh = rows[:size], fresh[:held_out_size]
    if len(rows) < size or len(fresh) < held_out_size:
        raise ValueError(
            f"{pool} has too few rows of at most {longest} tokens: wanted {size} candidates and {held_out_size} held "
            f"out, got {len(rows)} and {len(fresh)}"
        )
    nothing = np.full(len(rows), "")
    return Pool(rows, fresh, nothing, nothing)
