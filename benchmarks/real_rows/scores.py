"""Scores of a pool's rows by instsel, kept by all its rows together.

In bfloat16 a score moves with the rows beside which it is computed: kept by row, it would hang on what had been run
before, and a second run would select other rows.
"""

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
from instsel.methods.nuggets import anchor_score
from instsel.neighbors.embeddings import centred, text_vectors, unit_rows
from instsel.prompts.templates import embedding_text
from instsel.records import to_examples

INFLUENCES = ("ifd", "one_shot_ifd", "probes", "similarity")


def difficulties(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> np.ndarray:
    """Mean log-probabilities of the answers alone and after their prompts, float64 [n, 2], nats a token."""

    def compute() -> dict[str, np.ndarray]:
        found = instsel.ifd(scorer(), rows, template=plan.TEMPLATE)
        return {"difficulties": np.stack([found.direct, found.conditional], 1)}

    return kept(folder / "difficulties", rows, compute)["difficulties"]


def embeddings(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> np.ndarray:
    """Unit vectors of what the rows ask, float32 [n, d], as the methods make them."""

    def compute() -> dict[str, np.ndarray]:
        texts = [embedding_text(example) for example in to_examples(rows)]
        return {"vectors": unit_rows(centred(text_vectors(texts, None, scorer=scorer())))}

    return kept(folder / "vectors", rows, compute)["vectors"]


def influences(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path) -> dict[str, np.ndarray]:
    """What wICI finds in a pool, as `instsel.methods.influence.score_by_rule` takes it."""

    def compute() -> dict[str, np.ndarray]:
        found = instsel.wici(scorer(), rows, template=plan.TEMPLATE)
        return {name: getattr(found, name) for name in INFLUENCES}

    return kept(folder / "influences", rows, compute)


def anchored(scorer: Callable[[], Any], rows: Sequence[Row], folder: Path, anchors: Sequence[Row]) -> dict[str, Any]:
    """What NUGGETS finds of each row, by anchors helped and by their mean gain: float64 [n] each."""

    def compute() -> dict[str, np.ndarray]:
        found = instsel.nuggets(scorer(), rows, anchors=anchors, template=plan.TEMPLATE, measure="wins")
        return {measure: anchor_score(found.one_shot, found.zero_shot, measure) for measure in ("wins", "gain")}

    return kept(folder / "anchored", [*rows, *anchors], compute)


def kept(folder: Path, rows: Sequence[Row], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What was computed of these rows in this order, or is now."""
    path = folder / f"{hashlib.blake2b(json.dumps(rows).encode(), digest_size=12).hexdigest()}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.with_name(f"{path.stem}.{os.getpid()}.npz")
        np.savez(written, **compute())  # type: ignore[arg-type]
        written.replace(path)
    with np.load(path) as file:
        return dict(file)
