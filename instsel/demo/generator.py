"""Pools of candidates with a hidden truth, and candidate groups."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Sequence

from instsel.demo.convention import Convention
from instsel.demo.corruption import CORRUPTED_CLASSES, corrupt
from instsel.demo.families import HELD_OUT_FAMILIES, HELD_OUT_QUESTIONS
from instsel.demo.families.family import Exercise, Family
from instsel.demo.families.questions import OWN_STYLE, STYLES, Question, styled

CORRUPTED_SHARE = 0.08  # of the pool, for each of the five classes that are not clean
DEFAULT_POOL = 2000
DEFAULT_GROUPS = 200

Row = dict[str, str]


def _row(rng: random.Random, exercise: Exercise, truth: str, exercises: Sequence[Exercise]) -> Row:
    """Write an exercise as a candidate of a truth class."""
    other_answer = ""
    if truth == "other instruction":
        other_answer = rng.choice([other for other in exercises if other.family != exercise.family]).answer
    instruction, input_text, output = corrupt(rng, exercise, truth, other_answer)
    return {
        "instruction": instruction,
        "input": input_text,
        "output": output,
        "family": exercise.family,
        "truth": truth,
    }


def make_pool(
    seed: int,
    size: int = DEFAULT_POOL,
    *,
    families: Sequence[Family] = HELD_OUT_FAMILIES,
    held_out: bool = True,
    corrupted_share: float = CORRUPTED_SHARE,
) -> list[Row]:
    """Make a pool of candidates in random order: columns instruction, input, output, family and truth.

    Every family has one hidden convention, drawn from `seed`, that all of its candidates share. Of the pool
    `corrupted_share` each have a wrong answer, the answer to an instruction of another family, a truncated answer or
    noisy text, or are exact copies of clean candidates (truth "duplicate"); the rest, 60 % where nothing else is
    said, are clean. Apart from these copies no exercise occurs twice.

    Raises ValueError where `size` is below 50, `corrupted_share` is not from 0 to 0.16, or there are too few families
    or different exercises.

    >>> row = make_pool(0)[0]
    >>> sorted(row)
    ['family', 'input', 'instruction', 'output', 'truth']
    """
    if size < 50:
        raise ValueError(f"size must be at least 50, so that every class of truth occurs, got {size}")
    if len(families) < 2:
        raise ValueError("families must be at least two: some candidates get the answer of another one")
    if not 0 <= corrupted_share <= 0.16:
        raise ValueError(f"corrupted_share must be from 0 to 0.16, for each of five classes, got {corrupted_share}")
    num_corrupted = round(size * corrupted_share)
    rng = random.Random(f"pool {seed}")
    exercises = _draw_distinct(rng, _draw_conventions(rng, families, held_out=held_out), size - num_corrupted)
    rng.shuffle(exercises)
    truths = [truth for truth in CORRUPTED_CLASSES for _ in range(num_corrupted)]
    truths += ["clean"] * (len(exercises) - len(truths))
    rows = [_row(rng, exercise, truth, exercises) for exercise, truth in zip(exercises, truths, strict=True)]
    clean = [row for row in rows if row["truth"] == "clean"]
    rows += [{**row, "truth": "duplicate"} for row in rng.sample(clean, num_corrupted)]
    rng.shuffle(rows)
    return rows


def make_held_out_rows(
    seed: int,
    count: int,
    *,
    pool_size: int = DEFAULT_POOL,
    families: Sequence[Family] = HELD_OUT_FAMILIES,
    corrupted_share: float = CORRUPTED_SHARE,
) -> list[Row]:
    """Make clean rows of the families and hidden conventions of `make_pool(seed, pool_size)` that are not in it.

    >>> pool, rows = make_pool(0, 50), make_held_out_rows(0, 20, pool_size=50)
    >>> {row["family"] for row in rows} <= {row["family"] for row in pool}
    True
    """
    rng = random.Random(f"pool {seed}")
    conventions = _draw_conventions(rng, families, held_out=True)
    in_pool = _draw_distinct(rng, conventions, pool_size - round(pool_size * corrupted_share))
    taken = {(exercise.instruction, exercise.input) for exercise in in_pool}
    rng = random.Random(f"held-out rows {seed}")
    drawn = _draw_distinct(rng, conventions, count, taken)
    return [_row(rng, exercise, "clean", drawn) for exercise in drawn]


def _draw_conventions(
    rng: random.Random, families: Sequence[Family], *, held_out: bool
) -> list[tuple[Family, Convention]]:
    return [(family, family.draw_convention(rng, held_out=held_out)) for family in families]


def _draw_distinct(
    rng: random.Random,
    conventions: Sequence[tuple[Family, Convention]],
    count: int,
    taken: Collection[tuple[str, str]] = frozenset(),
) -> list[Exercise]:
    """Draw different exercises, one family after another, whose instruction and input are not `taken`."""
    distinct: dict[tuple[str, str], Exercise] = {}
    for turn in range(100 * count):
        family, convention = conventions[turn % len(conventions)]
        exercise = family.draw(rng, convention)
        if (exercise.instruction, exercise.input) not in taken:
            distinct.setdefault((exercise.instruction, exercise.input), exercise)
        if len(distinct) == count:
            return list(distinct.values())
    raise ValueError(f"size must be smaller: these families have fewer than {count} different exercises left")


def make_groups(
    seed: int, size: int = DEFAULT_GROUPS, *, questions: Sequence[Question] = HELD_OUT_QUESTIONS
) -> list[dict[str, object]]:
    """Make candidate groups for GRAPE: one right answer in six styles, in random order; no question occurs twice.

    Each has instruction, input, `candidates` ([{"response": ...}, ...]) and the hidden `own`: the index of the
    candidate in the style of the training text. Raises ValueError where there are too few different questions.
    """
    rng = random.Random(f"groups {seed}")
    distinct: dict[str, str] = {}
    for _ in range(100 * size):
        prompt, answer = rng.choice(list(questions)).draw(rng)
        distinct.setdefault(prompt, answer)
        if len(distinct) == size:
            break
    else:
        raise ValueError(f"size must be smaller: there are fewer than {size} different questions")
    groups: list[dict[str, object]] = []
    for prompt, answer in distinct.items():
        styles = rng.sample(list(STYLES), len(STYLES))
        candidates = [{"response": styled(style, answer)} for style in styles]
        groups.append({"instruction": prompt, "input": "", "candidates": candidates, "own": styles.index(OWN_STYLE)})
    return groups


def json_lines(rows: Sequence[object]) -> str:
    """Write rows as JSON, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
