"""One cell after another, a record each; those that have one are left out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from real_rows import plan, scores
from real_rows.candidates import ranking, read_groups
from real_rows.damage import CLEAN
from real_rows.detection import followed_by_influence, mean_scores, seen_damage
from real_rows.plan import Cell
from real_rows.pools import Pool, draw_pool, usable_rows
from real_rows.records import read_lines
from real_rows.rules import Scored, selected_rows
from real_rows.tuning import Learner

NAMED = ("commit", "processor", "gpu", "torch", "transformers", "instsel")  # of the machine, in each record

# Without tuning.
ANSWERED = {plan.SEEN: ("seen", seen_damage), plan.FOLLOWED: ("followed", followed_by_influence)}


class Study:
    """The records of one model and one file or mix of files."""

    def __init__(
        self, work: Path, model: str, files: Sequence[Path], records: Path, device: str = "cpu",
        candidates: Path | None = None,
    ) -> None:  # fmt: skip
        self.model, self.files, self.records, self.device = model, list(files), records, device
        self.groups = [] if candidates is None else read_groups(candidates, plan.QUESTIONS)
        self.about = {"model": Path(model).name, "source": "+".join(path.stem for path in files)}
        self.folder = work / self.about["model"]
        self.opened: tuple[tuple[int, float], Scored] | None = None

    def run(self, part: str, cell: Cell) -> None:
        """Tune on what the cell's rule selects, unless that has been recorded."""
        lines = [line for line in read_lines(self.records) if self.about.items() <= line.items()]
        if any(line["cell"] == asdict(cell) for line in lines):
            return
        if cell.rule in ANSWERED:
            name, answer = ANSWERED[cell.rule]
            self._record({**self.about, "part": part, "cell": asdict(cell), name: answer(self.scored(cell))})
            return
        rate = cell.rate or chosen_rate(lines)
        started = time.perf_counter()
        scored = self.scored(cell)
        pool = scored.pool
        rows = selected_rows(cell.rule, scored, cell.budget)
        scored_after = time.perf_counter()
        vocabulary = np.unique(np.concatenate([answer for _, answer in pool.pairs]))
        steps = self.learner.tune([pool.pairs[row] for row in rows], vocabulary, rate, cell.seed)
        tuned_after = time.perf_counter()
        after = self.learner.losses(pool.held_out, pool.sources)
        measured_after = time.perf_counter()
        known = [line["before"] for line in lines if line["cell"]["seed"] == cell.seed and "before" in line]
        before = known[0] if known else self.learner.before(pool.held_out, pool.sources)
        line = {
            **self.about, "part": part, "cell": asdict(cell), "rate": rate, "before": before, "after": after,
            "rows": len(rows), "tokens": int(pool.lengths[rows].sum()),
            "kinds": dict(Counter(pool.kinds[rows].tolist())),
            "damaged_share": float(np.mean(pool.kinds[rows] != CLEAN)), "steps": [round(loss, 4) for loss in steps],
            "seconds": {
                "scores": round(scored_after - started, 1), "tuning": round(tuned_after - scored_after, 1),
                "loss": round(measured_after - tuned_after, 1),
            },
            **({"candidates": ranking(self.learner.scorer, self.groups)} if self.groups else {}),
            **({"means": mean_scores(scored, rows)} if cell.rule in plan.SUBSETS else {}),
            "machine": {name: value for name, value in environment(self.device).items() if name in NAMED},
        }  # fmt: skip
        self._record(line)

    def _record(self, line: dict[str, Any]) -> None:
        self.records.parent.mkdir(parents=True, exist_ok=True)
        with self.records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(
            json.dumps({name: line[name] for name in ("part", "cell", "after", "seen", "followed") if name in line}),
            flush=True,
        )

    def scored(self, cell: Cell) -> Scored:
        """The cell's pool with its scores; the last one is held."""
        key = (cell.seed, cell.damaged)
        if self.opened is None or self.opened[0] != key:
            pool = draw_pool(self.usable, cell.seed, cell.damaged, self.learner.tokenizer)
            self.opened = key, scored_pool(pool, cell.seed, self.learner, self.folder)
        return self.opened[1]

    @cached_property
    def learner(self) -> Learner:
        """The model."""
        return Learner(self.model, self.device)

    @cached_property
    def usable(self) -> list[Any]:
        """The files' rows."""
        return usable_rows(self.files, self.learner.tokenizer)


def scored_pool(pool: Pool, seed: int, learner: Learner, folder: Path) -> Scored:
    """A pool with scores by the model as it was before any tuning, kept in the folder."""

    def untuned(compute: Any) -> Any:
        with learner.model.disable_adapter():
            return compute(lambda: learner.scorer, pool.rows, folder)

    ways = {name: getattr(scores, name) for name in ("difficulties", "embeddings", "influences")}
    ways["anchored"] = partial(scores.anchored, anchors=pool.anchors)
    return Scored(pool, seed, **{name: partial(untuned, way) for name, way in ways.items()})


def chosen_rate(lines: Sequence[dict[str, Any]]) -> float:
    """The learning rate of the lowest held-out loss on random rows; ValueError before it has been measured."""
    found = [line for line in lines if line["part"] == "rate"]
    if len(found) < len(plan.RATES):
        raise ValueError("the learning rate is not chosen yet: run --only rate first")
    return min(found, key=lambda line: line["after"]["all"])["rate"]
