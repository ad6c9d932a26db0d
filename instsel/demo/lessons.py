"""What the demo's model learns from the tenth that each way of selecting takes: held-out loss after tuning on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from instsel.demo.generator import Row, make_held_out_rows
from instsel.demo.tuning import HeldOut, encode_rows, held_out, product_attention, tune
from instsel.runs.durable_files import write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# The settings of the study in the documentation, which chose the learning rate on random subsets of other pools.
EPOCHS, BATCH, LEARNING_RATE = 4, 10, 4e-3
HELD_OUT_ROWS = 150
BUDGETS = (0.05, 0.1)
RANDOM = "random rows"
PROCEDURES = {"filter": "better half by gain", "paper": "wICI as published"}  # by `select --procedure`


@dataclass(frozen=True, slots=True)
class Lesson:
    """What was learnt from one subset: its budget as a share of the pool, its rows, and how many of them are clean."""

    name: str
    budget: float
    rows: int
    clean: float
    loss: float
    exact: float


@dataclass(frozen=True, slots=True)
class Lessons:
    """The model before any tuning, and after each."""

    untuned: HeldOut
    tuned: tuple[Lesson, ...]

    def of(self, name: str, budget: float) -> Lesson:
        """What was learnt by one way of selecting at one budget."""
        return next(one for one in self.tuned if one.name == name and one.budget == budget)


def folder_of(output: Path, procedure: str, budget: float) -> Path:
    """Where the demo's selection by a procedure at a budget lies."""
    return output / f"selected-{procedure}-{round(100 * budget)}"


def learn(
    model_folder: Path,
    output: Path,
    pool: Sequence[Row],
    seed: int,
    say: Callable[[str], None] = lambda line: None,
    *,
    quiet: bool = True,
) -> Lessons:
    """Tune the model on each selection of the demo, and on random rows, from the same start and for as many steps.

    Writes lessons.json into `output`, and reads it when it is there. Unless `quiet`, a bar follows the steps.
    """
    path = output / "lessons.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        return Lessons(HeldOut(**found["untuned"]), tuple(Lesson(**one) for one in found["tuned"]))
    import torch
    from tqdm import tqdm
    from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

    from instsel.engine.loading import without_remarks

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    AttentionInterface.register("product", product_attention)
    unseen = encode_rows(tokenizer, make_held_out_rows(seed, HELD_OUT_ROWS, pool_size=len(pool)))
    pairs = encode_rows(tokenizer, pool)

    def untuned() -> PreTrainedModel:
        told = {"dtype": torch.float32, "attn_implementation": "product"}
        with without_remarks():
            return AutoModelForCausalLM.from_pretrained(model_folder, **told)

    tuned = []
    for budget in BUDGETS:
        for name, rows in selections(output, len(pool), budget, seed).items():
            say(f"tuning on {len(rows)} rows: {name}")
            steps = max(1, round(EPOCHS * budget * len(pool) / BATCH))
            chosen = [pairs[row] for row in rows]
            pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds between lines: a log is not a screen
            with tqdm(total=steps, desc="tuning", unit="step", disable=quiet, leave=False, mininterval=pause) as bar:
                model = tune(
                    untuned(), chosen, steps=steps, batch_size=BATCH, learning_rate=LEARNING_RATE, seed=seed,
                    after_step=bar.update,
                )  # fmt: skip
            after = held_out(model, unseen)
            clean = float(np.mean([pool[row]["truth"] in ("clean", "duplicate") for row in rows]))
            tuned.append(Lesson(name, budget, len(rows), clean, after.loss, after.exact))
    lessons = Lessons(held_out(untuned(), unseen), tuple(tuned))
    write_text(path, f"{json.dumps(asdict(lessons), indent=1)}\n")
    return lessons


def selections(output: Path, size: int, budget: float, seed: int) -> dict[str, list[int]]:
    """The rows of each selection at a budget, and as many at random."""
    import pyarrow.parquet as pq

    found = {
        name: pq.read_table(folder_of(output, procedure, budget) / "selected.parquet")["row"].to_pylist()
        for procedure, name in PROCEDURES.items()
    }
    order = np.random.default_rng(seed).permutation(size)
    return {**found, RANDOM: order[: max(1, int(budget * size))].tolist()}
