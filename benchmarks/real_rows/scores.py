"""Scores of rows by instsel, kept by their texts: a row that many pools hold is scored once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_rows import plan
from real_rows.damage import Row

import instsel
from instsel.neighbors.embeddings import centred, text_vectors, unit_rows
from instsel.prompts.templates import embedding_text
from instsel.records import to_examples

INFLUENCES = ("ifd", "one_shot_ifd", "probes", "similarity")
SLICE = 64  # rows computed before the file is written again


def difficulties(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> np.ndarray:
    """Mean log-probabilities of the answers alone and after their prompts, float64 [n, 2], nats a token."""

    def compute(part: list[Row]) -> np.ndarray:
        found = instsel.ifd(scorer(), part, template=plan.TEMPLATE)
        return np.stack([found.direct, found.conditional], 1)

    return kept_numbers(folder / "difficulties.npz", rows, compute)


def embeddings(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> np.ndarray:
    """Unit vectors of what the rows ask, float32 [n, d], as the methods make them."""

    def compute(part: list[Row]) -> np.ndarray:
        return text_vectors([embedding_text(example) for example in to_examples(part)], None, scorer=scorer())

    return unit_rows(centred(kept_numbers(folder / "vectors.npz", rows, compute)))


def influences(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> dict[str, np.ndarray]:
    """What wICI finds in a pool, as `instsel.methods.influence.score_by_rule` takes it; kept by all rows together."""
    path = folder / "influences" / f"{hashlib.blake2b(json.dumps(rows).encode(), digest_size=12).hexdigest()}.npz"
    if not path.is_file():
        found = instsel.wici(scorer(), rows, template=plan.TEMPLATE)
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(written, **{name: getattr(found, name) for name in INFLUENCES})
        written.replace(path)
    with np.load(path) as file:
        return {name: file[name] for name in INFLUENCES}


def kept_numbers(path: Path, rows: Sequence[Row], compute: Callable[[list[Row]], np.ndarray]) -> np.ndarray:
    """Numbers of each row [n, d]; those that the file has not are computed and added to it."""
    keys = [hashlib.blake2b(json.dumps(row).encode(), digest_size=12).hexdigest() for row in rows]
    known: dict[str, np.ndarray] = {}
    if path.is_file():
        with np.load(path) as file:
            known = dict(zip(file["keys"].tolist(), file["numbers"], strict=True))
    missing = list({key: row for key, row in zip(keys, rows, strict=True) if key not in known}.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), SLICE):
        part = missing[start : start + SLICE]
        known |= zip([key for key, _ in part], compute([row for _, row in part]), strict=True)
        written = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(written, keys=np.array(list(known)), numbers=np.stack(list(known.values())))
        written.replace(path)
    return np.stack([known[key] for key in keys])
