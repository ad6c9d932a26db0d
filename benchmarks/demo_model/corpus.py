"""Training text: sequences of several examples that share hidden conventions, seen families and conventions only."""

from __future__ import annotations

import random
from collections.abc import Callable

from demo_model.made_up import draw_made_up_family

from instsel.demo.convention import Convention
from instsel.demo.corruption import corrupt
from instsel.demo.families import TRAINING_FAMILIES, TRAINING_QUESTIONS
from instsel.demo.families.family import Family
from instsel.demo.families.questions import OWN_STYLE, styled

QUESTION_SHARE = 0.08  # how many of the examples are plain questions, which are always answered in the own style
MADE_UP_SHARE = 0.4  # how many of the families are made up for one sequence
# How many of the examples have a defect, as real text has. A model that never saw one finds a defective answer the
# less probable the better it understood the demonstration before it, without bound, and such probes decide a mean.
DEFECT_SHARE = 0.12
# Not noisy text: a model that has learnt to read through noise learns as much from a noisy demonstration.
DEFECTS = ("wrong answer", "other instruction", "truncated")
ANSWER_FIRST_SHARE = 0.1  # how many sequences begin with an answer without its prompt, as PPL(y) needs it


def prompt_text(instruction: str, input_text: str) -> str:
    r"""Write the `plain` template's prompt.

    >>> prompt_text("Sort the words.", "pear, fig")
    'Sort the words.\npear, fig\n'
    """
    return f"{instruction}\n{input_text}\n" if input_text.strip() else f"{instruction}\n"


def draw_pieces(rng: random.Random, fits: Callable[[str], bool]) -> list[tuple[str, bool]]:
    """Draw one training sequence as pieces (text, is an answer), until `fits(piece)` says that the sequence is full.

    One to three families with a convention each are interleaved, so that a demonstration tells about its own family
    and nothing about another one.
    """
    families = [
        draw_made_up_family(rng) if rng.random() < MADE_UP_SHARE else family
        for family in rng.sample(TRAINING_FAMILIES, rng.choice((1, 1, 2, 2, 3)))
    ]
    conventions = [(family, family.draw_convention(rng, held_out=False)) for family in families]
    pieces: list[tuple[str, bool]] = []
    while True:
        if rng.random() < QUESTION_SHARE:
            question, bare = rng.choice(TRAINING_QUESTIONS).draw(rng)
            prompt, answer = prompt_text(question, ""), styled(OWN_STYLE, bare)
        else:
            prompt, answer = draw_example(rng, *rng.choice(conventions))
        if pieces or rng.random() >= ANSWER_FIRST_SHARE:
            pieces.append((prompt, False))
            if not fits(prompt):
                return pieces
        pieces.append((answer, True))
        if not fits(answer):
            return pieces


def draw_example(rng: random.Random, family: Family, convention: Convention) -> tuple[str, str]:
    """Draw prompt and answer, a few of them with a defect."""
    exercise = family.draw(rng, convention)
    if rng.random() >= DEFECT_SHARE:
        return prompt_text(exercise.instruction, exercise.input), exercise.answer
    stranger = rng.choice([one for one in TRAINING_FAMILIES if one.name != family.name])
    other_answer = stranger.draw(rng, stranger.draw_convention(rng, held_out=False)).answer
    instruction, input_text, answer = corrupt(rng, exercise, rng.choice(DEFECTS), other_answer)
    return prompt_text(instruction, input_text), answer
