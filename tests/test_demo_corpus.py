"""The demo model's training text: what is made up for one sequence, and how much of it has a defect."""

from __future__ import annotations

import random

import pytest
from demo_model import corpus
from demo_model.corpus import DEFECT_SHARE, draw_example, prompt_text
from demo_model.made_up import draw_made_up_family

from instsel.demo.families import HELD_OUT_FAMILIES, TRAINING_FAMILIES


def test_made_up_families_are_no_two_alike_and_none_is_held_out() -> None:
    rng = random.Random(1)
    families = [draw_made_up_family(rng) for _ in range(300)]
    assert len({family.phrasings for family in families}) == 300
    assert {family.name for family in families} == {"made-up table", "made-up classes", "made-up record"}
    held_out = {phrasing for family in HELD_OUT_FAMILIES for phrasing in family.phrasings}
    assert not held_out.intersection(phrasing for family in families for phrasing in family.phrasings)


def test_a_made_up_exercise_has_a_right_answer_and_a_wrong_one() -> None:
    rng = random.Random(2)
    same = 0
    for _ in range(300):
        family = draw_made_up_family(rng)
        exercise = family.draw(rng, family.draw_convention(rng, held_out=False))
        same += exercise.answer == exercise.wrong_answer
        assert exercise.answer.endswith("\n") and exercise.instruction
    # A record whose fields were drawn alike has no wrong answer: rare, and right by chance in real data too.
    assert same <= 3


def defective(draws: int) -> int:
    """How many of the examples drawn are not what their family gives for the same random numbers."""
    different = 0
    for seed in range(draws):
        family = TRAINING_FAMILIES[seed % len(TRAINING_FAMILIES)]
        convention = family.draw_convention(random.Random(f"convention {seed}"), held_out=False)
        exercise = family.draw(random.Random(seed), convention)
        drawn = draw_example(random.Random(seed), family, convention)
        different += drawn != (prompt_text(exercise.instruction, exercise.input), exercise.answer)
    return different


def test_as_many_examples_have_a_defect_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = 2000
    spread = (draws * DEFECT_SHARE * (1 - DEFECT_SHARE)) ** 0.5
    assert abs(defective(draws) - draws * DEFECT_SHARE) < 4 * spread
    monkeypatch.setattr(corpus, "DEFECT_SHARE", 0.0)
    assert defective(200) == 0
    monkeypatch.setattr(corpus, "DEFECT_SHARE", 1.0)
    assert defective(200) == 200
