"""What one run of the demo found, read back from its run folders and set against the pool's truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from instsel.demo.lessons import BUDGETS, PROCEDURES, Lessons, selections
from instsel.demo.separation import areas_by_class
from instsel.methods.correlation import Correlation, spearman_correlation
from instsel.methods.influence import score_by_rule

SCORE_NAMES = ("gain", "wICI", "IFD", "perplexity", "length", "random")


@dataclass(frozen=True, slots=True)
class Findings:
    """A pool with its scores.

    rows         the pool, in its order, with the columns instruction, input, output, family and truth
    scores       float64 [n] by the names of `SCORE_NAMES`, higher being what the method prefers
    ifd          float64 [n]
    areas        area under the ROC curve of clean rows against each class, by score and class
    correlation  Spearman's rank correlation of IFD and gain, with its bootstrap interval
    selected     rows of the pool that were selected from the half with the higher gain
    lessons      what the model learnt from each selection
    own_style    share of the groups in which GRAPE picked the model's own style
    costs        what each command cost: rows, seconds, tokens_forwarded, tokens_unshared
    """

    rows: list[dict[str, object]]
    scores: dict[str, np.ndarray]
    ifd: np.ndarray
    areas: dict[str, dict[str, float]]
    correlation: Correlation
    selected: np.ndarray
    lessons: Lessons
    own_style: float
    num_groups: int
    costs: dict[str, dict[str, float]]

    @property
    def truth(self) -> np.ndarray:
        """The truth class of each row."""
        return np.array([row["truth"] for row in self.rows])

    @property
    def order(self) -> np.ndarray:
        """The scored rows by gain, highest first."""
        score = self.scores["gain"]
        ranked = np.argsort(-score, kind="stable")
        return ranked[np.isfinite(score[ranked])]


def read_findings(folder: Path, seed: int, lessons: Lessons) -> Findings:
    """Read what the demo's commands wrote under `folder`; its wici run has the rule "gain"."""
    rows = _read(folder / "wici" / "scores.parquet")
    difficulty = _read(folder / "ifd" / "scores.parquet")
    groups = _read(folder / "grape" / "scores.parquet")
    gain = _numbers(rows, "score")
    pairs = (np.array([row[name] for row in rows], np.float64) for name in ("one_shot_ifd", "probes", "similarity"))
    one_shot_ifd, probes, similarity = pairs
    ifd = _numbers(difficulty, "ifd")
    values = (
        gain,
        score_by_rule(_numbers(rows, "ifd"), one_shot_ifd, probes.astype(np.int64), similarity, "paper"),
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
        correlation=spearman_correlation(ifd, gain),
        selected=np.array(selections(folder, len(rows), BUDGETS[-1], seed)[PROCEDURES["filter"]], np.int64),
        lessons=lessons,
        own_style=float(np.mean([group["best"] == group["own"] for group in groups])),
        num_groups=len(groups),
        costs={name: _cost(folder / name / "manifest.json") for name in ("wici", "ifd", "grape")},
    )


def _read(path: Path) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return rows


def _numbers(rows: list[dict[str, object]], column: str) -> np.ndarray:
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
