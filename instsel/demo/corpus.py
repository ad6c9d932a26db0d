"""Training text: sequences of several examples that share hidden conventions, seen families and conventions only."""

from __future__ import annotations

import random
from collections.abc import Callable

from instsel.demo.families import TRAINING_FAMILIES, TRAINING_QUESTIONS
from instsel.demo.families.questions import OWN_STYLE, styled

QUESTION_SHARE = 0.08  # how many of the examples are plain questions, which are always answered in the own style
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
    families = rng.sample(TRAINING_FAMILIES, rng.choice((1, 1, 2, 2, 3)))
    conventions = [(family, family.draw_convention(rng, held_out=False)) for family in families]
    pieces: list[tuple[str, bool]] = []
    while True:
        if rng.random() < QUESTION_SHARE:
            prompt, bare = rng.choice(TRAINING_QUESTIONS).draw(rng)
            prompt, answer = prompt_text(prompt, ""), styled(OWN_STYLE, bare)
        else:
            family, convention = rng.choice(conventions)
            exercise = family.draw(rng, convention)
            prompt, answer = prompt_text(exercise.instruction, exercise.input), exercise.answer
        if pieces or rng.random() >= ANSWER_FIRST_SHARE:
            pieces.append((prompt, False))
            if not fits(prompt):
                return pieces
        pieces.append((answer, True))
        if not fits(answer):
            return pieces
