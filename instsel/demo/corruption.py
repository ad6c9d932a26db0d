"""What is done to an example to make it bad, by the name of its truth class."""

from __future__ import annotations

import random

from instsel.demo.families.family import Exercise

TRUTH_CLASSES = ("clean", "wrong answer", "other instruction", "truncated", "noisy text", "duplicate")
# A duplicate's text is as good as its original's: what removes it is selection, not a score.
CORRUPTED_CLASSES = ("wrong answer", "other instruction", "truncated", "noisy text")

NOISE_RATE = 0.15  # of the letters and digits of a noisy text
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789#@%"


def truncate(rng: random.Random, answer: str) -> str:
    """Cut an answer after 20 to 70 % of its characters, the closing line feed included in what is lost."""
    body = answer.rstrip("\n")
    return body[: max(1, int(len(body) * rng.uniform(0.2, 0.7)))]


def add_noise(rng: random.Random, text: str) -> str:
    """Replace, drop or double 15 % of the letters and digits, as a bad scan or a careless typist would."""
    out = []
    for character in text:
        if not character.isalnum() or rng.random() >= NOISE_RATE:
            out.append(character)
        else:
            out.append(rng.choice((rng.choice(_CHARACTERS), "", character * 2)))
    return "".join(out)


def corrupt(rng: random.Random, exercise: Exercise, truth: str, other_answer: str) -> tuple[str, str, str]:
    """Make an exercise an example of a truth class: its instruction, input and output.

    `other_answer` is the answer to an instruction of another family, what "other instruction" puts in place of the
    exercise's own. Classes that are not corrupted leave the exercise as it is.
    """
    if truth == "noisy text":
        return add_noise(rng, exercise.instruction), add_noise(rng, exercise.input), add_noise(rng, exercise.answer)
    answer = exercise.answer
    if truth == "wrong answer":
        answer = exercise.wrong_answer
    elif truth == "other instruction":
        answer = other_answer
    elif truth == "truncated":
        answer = truncate(rng, answer)
    return exercise.instruction, exercise.input, answer
