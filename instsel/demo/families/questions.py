"""Plain questions without a hidden convention, answered in several styles, one of which is the training text's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from instsel.demo import lexicon

OWN_STYLE = "sentence"
STYLES = {
    "sentence": "The answer to this is {}.\n",
    "bare": "{}\n",
    "shouting": "ANSWER!!! {} !!!\n",
    "chatty": "Sure, happy to help you with that, here we go: {}\n",
    "code": '{{"result": "{}"}}\n',
    "bullet": "- asked: yes\n- found: {}\n",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of question: phrasings with "{}" for its content, and a function that draws content and answer."""

    name: str
    phrasings: tuple[str, ...]
    sample: Callable[[random.Random], tuple[str, str]]
    held_out: bool = False

    def draw(self, rng: random.Random) -> tuple[str, str]:
        """Draw a question and the bare answer to it."""
        text, answer = self.sample(rng)
        return rng.choice(self.phrasings).format(text), answer


def styled(style: str, answer: str) -> str:
    """Write a bare answer in a style."""
    return STYLES[style].format(answer)


def _plus(rng: random.Random) -> tuple[str, str]:
    left, right = rng.randrange(2, 30), rng.randrange(2, 30)
    return f"{left} plus {right}", str(left + right)


def _opposite(rng: random.Random) -> tuple[str, str]:
    left, right = rng.choice(lexicon.OPPOSITES)
    return (left, right) if rng.random() < 0.5 else (right, left)


def _first_letter(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(lexicon.GOODS + lexicon.ANIMALS + lexicon.TOOLS)
    return word, word[0]


def _next_day(rng: random.Random) -> tuple[str, str]:
    index = rng.randrange(7)
    return lexicon.DAYS[index], lexicon.DAYS[(index + 1) % 7]


def _larger(rng: random.Random) -> tuple[str, str]:
    left, right = rng.sample(range(10, 100), 2)
    return f"{left} or {right}", str(max(left, right))


def _words(rng: random.Random) -> tuple[str, str]:
    count = rng.randrange(2, 7)
    return " ".join(rng.sample(lexicon.GOODS, count)), str(count)


def _next_month(rng: random.Random) -> tuple[str, str]:
    index = rng.randrange(12)
    return lexicon.MONTHS[index], lexicon.MONTHS[(index + 1) % 12]


def _shorter(rng: random.Random) -> tuple[str, str]:
    short = rng.choice([word for word in lexicon.GOODS if len(word) < 5])
    long = rng.choice([word for word in lexicon.GOODS if len(word) > 5])
    return (f"{short} or {long}" if rng.random() < 0.5 else f"{long} or {short}"), short


def _last_letter(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(lexicon.GOODS + lexicon.ANIMALS + lexicon.TOOLS)
    return word, word[-1]


def _minus(rng: random.Random) -> tuple[str, str]:
    small, large = sorted(rng.sample(range(2, 60), 2))
    return f"{large} take away {small}", str(large - small)


QUESTIONS = (
    Question("plus", ("What is {}?", "How much is {}?", "Can you tell me what {} makes?"), _plus),
    Question("opposite", ("What is the opposite of {}?", "Which word is the opposite of {}?"), _opposite),
    Question("first letter", ("What does {} begin with?", "Which letter begins {}?"), _first_letter),
    Question("next day", ("Which day comes after {}?", "What day follows {}?"), _next_day),
    Question("larger", ("Which is larger, {}?", "What is the larger number, {}?"), _larger),
    Question("how many words", ("How many words are there in: {}?", "What is the number of words in: {}?"), _words),
    Question("next month", ("Which month comes after {}?", "What month follows {}?"), _next_month, held_out=True),
    Question("shorter word", ("Which word is shorter, {}?", "What is the shorter word, {}?"), _shorter, held_out=True),
    Question(
        "last letter", ("Which letter ends {}?", "At the end of {}, which letter is it?"), _last_letter, held_out=True
    ),
    Question("minus", ("What remains from {}?", "How many are left in {}?"), _minus, held_out=True),
)
