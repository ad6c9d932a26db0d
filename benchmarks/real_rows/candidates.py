"""An answer that can be checked without a judge: does a model find right answers likelier than wrong ones?"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from real_rows import plan

import instsel

REFERENCE = "ground_truth"  # the source of the answers that were written by people, which would be known by their style

Group = dict[str, Any]


def read_groups(path: Path, count: int) -> list[Group]:
    """Questions with right and wrong answers by models, `count` of them at random, the same each time.

    Lines hold `instruction` and `candidates`, each with `source`, `response` and `correct`. Raises ValueError where
    there are fewer.
    """
    groups = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answers = [one for one in row["candidates"] if one["source"] != REFERENCE and one["response"].strip()]
        if len({bool(one["correct"]) for one in answers}) == 2:
            groups.append({"instruction": row["instruction"], "answers": answers})
    if len(groups) < count:
        raise ValueError(f"candidates: expected {count} questions with right and wrong answers, got {len(groups)}")
    return random.Random("candidates").sample(groups, count)


def ranking(scorer: Any, groups: Sequence[Group]) -> dict[str, float]:
    """How often a right answer has the higher mean log-probability.

    pairs  of all pairs of a right and a wrong answer to a question, mean over questions; 0.5 is chance
    first  of the questions, those whose likeliest answer is right
    chance of that by drawing an answer
    """
    rows = [
        {"instruction": group["instruction"], "input": "", "output": one["response"].strip()}
        for group in groups for one in group["answers"]
    ]  # fmt: skip
    scores = instsel.perplexity(scorer, rows, template=plan.TEMPLATE).mean_logprob
    pairs, first, chance, start = [], [], [], 0
    for group in groups:
        right = np.array([bool(one["correct"]) for one in group["answers"]])
        own = scores[start : start + len(right)]
        start += len(right)
        above = own[right][:, None] - own[~right]
        pairs.append(float(np.mean((above > 0) + 0.5 * (above == 0))))
        first.append(bool(right[np.argmax(own)]))
        chance.append(float(right.mean()))
    return {"pairs": float(np.mean(pairs)), "first": float(np.mean(first)), "chance": float(np.mean(chance))}
