"""What one run of the demo found, read back from its run folders and set against the pool's truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instsel.demo.separation import areas_by_class
from instsel.methods.correlation import Correlation, spearman_correlation

SCORE_NAMES = ("wICI", "IFD", "perplexity", "length", "random")


@dataclass(frozen=True, slots=True)
class Findings:
    """A pool with its scores.

    rows         the pool, in its order, with the columns instruction, input, output, family and truth
    scores       float64 [n] by the names of `SCORE_NAMES`, higher being what the method prefers
    ifd          float64 [n]
    areas        area under the ROC curve of clean rows against each class, by score and class
    correlation  Spearman's rank correlation of IFD and wICI, with its bootstrap interval
    selected     rows of the pool that were selected, best first
    own_style    share of the groups in which GRAPE picked the model's own style
    costs        what each command cost: rows, seconds, tokens_forwarded, tokens_unshared
    """

    rows: list[dict[str, Any]]
    scores: dict[str, np.ndarray]
    ifd: np.ndarray
    areas: dict[str, dict[str, float]]
    correlation: Correlation
    selected: np.ndarray
    own_style: float
    num_groups: int
    costs: dict[str, dict[str, float]]

    @property
    def truth(self) -> np.ndarray:
        """The truth class of each row."""
        return np.array([row["truth"] for row in self.rows])

    @property
    def order(self) -> np.ndarray:
        """The scored rows by wICI, highest first."""
        score = self.scores["wICI"]
        ranked = np.argsort(-score, kind="stable")
        return ranked[np.isfinite(score[ranked])]


def read_findings(folder: Path, seed: int) -> Findings:
    """Read the folders wici, ifd, grape and selected that the demo's commands wrote under `folder`."""
    rows = _read(folder / "wici" / "scores.parquet")
    difficulty = _read(folder / "ifd" / "scores.parquet")
    groups = _read(folder / "grape" / "scores.parquet")
    influence = _numbers(rows, "score")
    ifd = _numbers(difficulty, "ifd")
    values = (
        influence,
        ifd,
        _numbers(difficulty, "conditional"),
        _numbers(difficulty, "num_tokens"),
        np.random.default_rng(seed).random(len(rows)),
    )
    scores = dict(zip(SCORE_NAMES, values, strict=True))
    return Findings(
        rows=rows,
        scores=scores,
        ifd=ifd,
        areas=areas_by_class(scores, np.array([row["truth"] for row in rows])),
        correlation=spearman_correlation(ifd, influence),
        selected=np.array([row["row"] for row in _read(folder / "selected" / "selected.parquet")], np.int64),
        own_style=float(np.mean([group["best"] == group["own"] for group in groups])),
        num_groups=len(groups),
        costs={name: _cost(folder / name / "manifest.json") for name in ("wici", "ifd", "grape")},
    )


def _read(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _numbers(rows: list[dict[str, Any]], column: str) -> np.ndarray:
    return np.array([np.nan if row[column] is None else row[column] for row in rows], np.float64)


def _cost(manifest: Path) -> dict[str, float]:
    found = json.loads(manifest.read_text(encoding="utf-8"))
    stats = found["stats"]
    return {
        "rows": float(sum(found["counts"].values())),
        "seconds": float(stats["wall_seconds"]),
        "tokens_forwarded": float(stats["tokens_forwarded"]),
        "tokens_unshared": float(stats["tokens_unshared"]),
    }
