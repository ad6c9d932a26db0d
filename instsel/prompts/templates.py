"""Prompt templates: an example as context and continuation.

plain   each earlier turn, the instruction, and the input where it is not blank, each followed by a line feed; then the
        answer. A demonstration stands before it all, with nothing between (the wICI authors' released program).
alpaca  the wording of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py). A system turn stands above it;
        earlier exchanges repeat the blocks "### Instruction:" and "### Response:". A demonstration stands before it
        all, with a blank line between.
chat    the tokenizer's chat template (:mod:`instsel.prompts.chat_template`); a demonstration is the earlier turns.
"""

from __future__ import annotations

from typing import Any

from instsel.prompts.chat_template import TemplateRefusalError, chat_prompt, chat_prompt_and_answer
from instsel.records import Example

TEMPLATES = ("plain", "alpaca", "chat")

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)


def context_text(
    template: str, example: Example, *, demonstration: Example | None = None, tokenizer: Any = None
) -> str:
    """What stands before the example's answer; arguments and errors as :func:`prompt_and_answer`."""
    if template == "chat":
        return chat_prompt(tokenizer, example, demonstration)
    _check(template)
    if template == "plain":
        before = "" if demonstration is None else _plain_prompt(demonstration) + demonstration.response
        return before + _plain_prompt(example)
    before = "" if demonstration is None else _alpaca_prompt(demonstration) + demonstration.response + "\n\n"
    return before + _alpaca_prompt(example)


def prompt_and_answer(
    template: str,
    example: Example,
    *,
    demonstration: Example | None = None,
    tokenizer: Any = None,
    row: int | None = None,
    demonstration_row: int | None = None,
) -> tuple[str, str]:
    """The context and the continuation of an example, ready for ``score_batch``.

    template: one of :data:`TEMPLATES`. demonstration: an example shown with its answer before the prompt.
    tokenizer: needed for "chat" only. row, demonstration_row: the examples' numbers, for an error to name. The token
    that ends a turn is not part of the answer.

    Raises ValueError for an unknown template, a tokenizer without a chat template, or turns that it refuses.

    >>> shown = Example("Add 1 and 2.", "", "3")
    >>> prompt_and_answer("plain", Example("Add up.", "2, 3", "5"), demonstration=shown)
    ('Add 1 and 2.\\n3Add up.\\n2, 3\\n', '5')
    """
    if template == "chat":
        try:
            return chat_prompt_and_answer(tokenizer, example, demonstration)
        except TemplateRefusalError as error:
            if row is None:
                raise
            after = "" if demonstration_row is None else f" after the demonstration of row {demonstration_row}"
            raise TemplateRefusalError(f"row {row}{after} (counting from 0): {error}") from None
    return context_text(template, example, demonstration=demonstration), example.response


def embedding_text(example: Example) -> str:
    """What the neighbour search embeds: the instruction, and on a line of its own the input where it is not blank.

    >>> embedding_text(Example("Add up.", "2, 3"))
    'Add up.\\n2, 3'
    """
    return example.instruction + ("\n" + example.input if example.input.strip() else "")


def _check(template: str) -> None:
    if template not in TEMPLATES:
        raise ValueError(f"template must be one of {', '.join(TEMPLATES)}, got {template!r}")


def _plain_prompt(example: Example) -> str:
    parts = [text for _, text in example.history] + [example.instruction]
    if example.input.strip():
        parts.append(example.input)
    return "".join(part + "\n" for part in parts)


def _alpaca_prompt(example: Example) -> str:
    has_input = bool(example.input.strip())
    out = []
    turns = list(example.history)
    if turns and turns[0][0] == "system":
        out.append(turns.pop(0)[1] + "\n\n")
    out.append(ALPACA_WITH_INPUT if has_input else ALPACA)
    for role, text in turns:
        heading = {"user": "### Instruction:\n", "assistant": "### Response:", "system": ""}[role]
        out.append(heading + text + "\n\n")
    out.append(f"### Instruction:\n{example.instruction}\n\n")
    if has_input:
        out.append(f"### Input:\n{example.input}\n\n")
    return "".join(out) + "### Response:"
