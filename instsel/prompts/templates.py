"""Prompt templates: an example as context and continuation.

plain   each earlier turn, the instruction, and the input where it is not blank, each followed by a line feed; then the
        answer. A demonstration stands before it all, with nothing between (the wICI authors' released program).
alpaca  the wording of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py). A system turn stands above it;
        earlier exchanges repeat the blocks "### Instruction:" and "### Response:". A demonstration stands before it
        all, with a blank line between.
chat    the tokenizer's chat template (:mod:`instsel.prompts.chat_template`); a demonstration is the earlier turns.
TEXT    a text of one's own with {instruction} and {input} (:mod:`instsel.prompts.own_template`), or two: for rows with
        an input and for rows without.
PATH    of a Jinja chat template (*.jinja), used as "chat" uses the tokenizer's.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instsel.prompts.answer_span import reasoning_block, split_reasoning
from instsel.prompts.chat_messages import ChatSettings, TemplateRefusalError
from instsel.prompts.chat_template import chat_prompt, chat_prompt_and_answer, chat_prompts_and_answers
from instsel.prompts.jinja_rendering import reads_the_date
from instsel.prompts.own_template import MissingInputError, OwnTemplate, own_template
from instsel.records import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = ("plain", "alpaca", "chat")
REFUSALS = (TemplateRefusalError, MissingInputError)  # of one example; others may do
JINJA_SUFFIXES = (".jinja", ".jinja2", ".j2")

ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)


def context_text(
    template: object,
    example: Example,
    *,
    demonstration: Example | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = ChatSettings(),  # noqa: B008 - frozen
) -> str:
    """What stands before the example's answer; arguments and errors as :func:`prompt_and_answer`."""
    if template == "plain":
        before = "" if demonstration is None else _plain_prompt(demonstration) + demonstration.response
        return before + _plain_prompt(example)
    if template == "alpaca":
        before = "" if demonstration is None else _alpaca_prompt(demonstration) + demonstration.response + "\n\n"
        return before + _alpaca_prompt(example)
    own = check_template(template)
    if own is None:
        source = _jinja_source(template)
        return chat_prompt(tokenizer, example, demonstration, source=source, moment=moment, settings=settings)
    return own.context(example, demonstration)


def prompt_and_answer(
    template: object,
    example: Example,
    *,
    demonstration: Example | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = ChatSettings(),  # noqa: B008 - frozen
) -> tuple[str, str]:
    """The context and the continuation of an example, ready for ``score_batch``.

    template: one of :data:`TEMPLATES`, a text with {instruction}, two of them, or the path of a .jinja file.
    demonstration: an example shown with its answer before the prompt. tokenizer: needed for chat templates only.
    moment: what a chat template's `strftime_now` tells, by default the time of the call. settings: what it is told, and
    which part of the answer is scored. The token that ends a turn is not part of the answer.

    Raises ValueError for an unknown template, a tokenizer without a chat template, turns that it refuses, or an input
    for which a text of one's own has no place.

    >>> shown = Example("Add 1 and 2.", "", "3")
    >>> prompt_and_answer("plain", Example("Add up.", "2, 3", "5"), demonstration=shown)
    ('Add 1 and 2.\\n3Add up.\\n2, 3\\n', '5')
    >>> prompt_and_answer("Q: {instruction} {input}\\nA: ", Example("Add up.", "2, 3", "5"))
    ('Q: Add up. 2, 3\\nA: ', '5')
    """
    if template in ("plain", "alpaca") or check_template(template) is not None:
        for one in (example, demonstration):
            _check_tools(one)
        context = context_text(template, example, demonstration=demonstration)
        block, rest = split_reasoning(example.response)
        answers = {"drop": (context + block, rest), "only": (context, reasoning_block(example.response))}
        return answers.get(settings.reasoning, (context, example.response))
    source = _jinja_source(template)
    return chat_prompt_and_answer(tokenizer, example, demonstration, source=source, moment=moment, settings=settings)


def turn_prompts(
    template: object,
    turns: Sequence[Example],
    *,
    demonstration: Example | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = ChatSettings(),  # noqa: B008 - frozen
) -> list[tuple[str, str]]:
    """Context and continuation of each of a conversation's turns (`scored_turns`), as :func:`prompt_and_answer`.

    A chat template writes the conversation as often for many turns as for one where their answers are texts.
    """
    told: dict[str, Any] = {"tokenizer": tokenizer, "moment": moment, "settings": settings}
    if len(turns) > 1 and is_chat_template(template):
        return chat_prompts_and_answers(
            tokenizer, turns, demonstration, source=_jinja_source(template), moment=moment, settings=settings
        )
    return [prompt_and_answer(template, one, demonstration=demonstration, **told) for one in turns]


def _check_tools(example: Example | None) -> None:
    """Raise TemplateRefusalError for a tool's turn, or an answer that is a call: a text has no place for them."""
    messages = () if example is None or example.chat is None else example.chat.messages
    if any(message["role"] == "tool" for message in messages):
        raise TemplateRefusalError("the conversation holds turns of a tool, for which only a chat template has a place")
    if messages and messages[-1].get("tool_calls") and not (messages[-1].get("content") or "").strip():
        raise TemplateRefusalError("the answer is a call of a tool, for which only a chat template has a place")


def embedding_text(example: Example) -> str:
    """What the neighbour search embeds: the instruction, and on a line of its own the input where it is not blank.

    >>> embedding_text(Example("Add up.", "2, 3"))
    'Add up.\\n2, 3'
    """
    return example.instruction + ("\n" + example.input if example.input.strip() else "")


def check_template(template: object) -> OwnTemplate | None:
    """A text of one's own as a template, None for those that have a name or are a file; ValueError for anything else.

    Raises TypeError or ValueError where `template` is none of what :func:`prompt_and_answer` takes.
    """
    if isinstance(template, (list, tuple)) and all(isinstance(text, str) for text in template):
        if len(template) != 2:
            raise ValueError(f"template: expected one text or two (with an input, without), got {len(template)}")
        return own_template(*template)
    if isinstance(template, os.PathLike):
        template = os.fspath(template)
    if not isinstance(template, str):
        raise TypeError(f"template: expected a name, a text or two texts, got {type(template).__name__}")
    if template in TEMPLATES:
        return None
    if template.endswith(JINJA_SUFFIXES):
        _jinja_source(template)
        return None
    if "{" not in template:
        raise ValueError(
            f"template must be one of {', '.join(TEMPLATES)}, a text with {{instruction}}, or the path of a .jinja "
            f"file, got {template!r}"
        )
    return own_template(template, template)


def is_chat_template(template: object) -> bool:
    """Whether a template writes turns as a tokenizer's chat template does: "chat", or the path of a Jinja file."""
    return check_template(template) is None and template not in ("plain", "alpaca")


def template_reads_the_date(template: object, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Whether a template asks for the date, so that its prompts are others on another day."""
    return is_chat_template(template) and reads_the_date(tokenizer, _jinja_source(template))


def template_name(template: object) -> object:
    """A template as a manifest records it: a name or texts as they are, a file by its content."""
    if isinstance(template, (list, tuple)):
        return list(template)
    source = _jinja_source(template)
    return template if source is None else {"jinja": source}


def _jinja_source(template: object) -> str | None:
    """The text of a Jinja file; None for the tokenizer's own template."""
    path = os.fspath(template) if isinstance(template, (str, os.PathLike)) else ""
    return _read_jinja(path) if path.endswith(JINJA_SUFFIXES) and "{" not in path else None


@functools.lru_cache(maxsize=8)
def _read_jinja(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise ValueError(f"template: the Jinja chat template {path!r} cannot be read: {reason}") from None


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
