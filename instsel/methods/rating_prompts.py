"""What rating models are asked, in our own wording, and what a rating prompt must have."""

from __future__ import annotations

from collections.abc import Sequence

RATING_PROMPT = (
    "How complex is the following request? Answer with a number from 1 (very simple) to 6 (very complex).\n"
    "##Request: {request}\n"
    "##Complexity: "
)
QUALITY_PROMPT = (
    "How good is the following response to the request? Answer with a number from 1 (very bad) to 6 (very good).\n"
    "##Request: {request}\n"
    "##Response: {response}\n"
    "##Quality: "
)
# One question asked in several ways, as the authors of SelectIT do; "{levels}" is the best rating.
_QUESTIONS = (
    "How well does the response below do what the request asks? Give a grade from 1 (not at all) to {levels} (fully).",
    "Grade the response for correctness and for keeping to the request, from 1 (worst) to {levels} (best).",
    "On a scale of 1 to {levels}, how accurate and helpful is this response to the request? Write the number alone.",
    "Read the request and the response. Rate the response with a whole number from 1, poor, to {levels}, excellent.",
    "Would the one who made this request be content with the response? Say how much, from 1 (no) to {levels} (yes).",
)
_EXAMPLE = "\nRequest: {request}\nResponse: {response}\nThe grade is:\n"


def default_prompts(levels: int) -> list[str]:
    """Five prompts that ask one question, for ratings from 1 to `levels`."""
    return [question.replace("{levels}", str(levels)) + _EXAMPLE for question in _QUESTIONS]


def check_rating_prompt(prompt: object, places: Sequence[str] = ("request",), name: str = "rating_prompt") -> None:
    """Raise ValueError unless the prompt is a text with each of these places for the example."""
    missing = [f'"{{{one}}}"' for one in places if not isinstance(prompt, str) or f"{{{one}}}" not in prompt]
    if missing:
        raise ValueError(f"{name} must contain {' and '.join(missing)}, got {prompt!r}")


def check_rating_prompts(prompts: object, places: Sequence[str], name: str) -> None:
    """Raise ValueError unless this is a list of rating prompts, and at least one."""
    if isinstance(prompts, str) or not isinstance(prompts, (list, tuple)) or not prompts:
        raise ValueError(f"{name} must be a list of at least one text, got {prompts!r}")
    for place, prompt in enumerate(prompts):
        check_rating_prompt(prompt, places, f"{name}[{place}]")
