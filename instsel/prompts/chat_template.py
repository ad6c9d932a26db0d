"""Examples in the wording of a tokenizer's chat template.

The template is rendered as text, never as token ids, so that context and answer are tokenised as one text. The context
is what the template writes before the finished answer: its generation prompt, and what it puts between that and an
answer without reasoning, such as an empty block for it. The answer is as the template writes it, which may change its
blanks: with its reasoning and its calls of tools. What the template writes after the answer, the end of the turn, is
not scored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from instsel.error_text import first_line
from instsel.prompts.answer_span import (
    STAND_IN,
    answer_span,
    begins_with_empty_block,
    reasoning_block,
    split_reasoning,
)
from instsel.prompts.chat_messages import (
    ChatInput,
    ChatSettings,
    Message,
    TemplateRefusalError,
    chat_input,
    message_count,
    reasoning_of,
    with_arguments_as_text,
)
from instsel.prompts.jinja_rendering import TemplateLimitError, render, source_of
from instsel.prompts.reached_keys import is_written, reasoning_in
from instsel.records import Example
from instsel.records.formats import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LONGEST_REASON = 200  # characters: a template may put what it likes there
_AS_IT_IS = ChatSettings()


def chat_prompt(
    tokenizer: PreTrainedTokenizerBase | None,
    example: Example,
    demonstration: Example | None = None,
    *,
    source: str | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = _AS_IT_IS,
) -> str:
    """What the chat template writes before the example's answer; arguments as `chat_prompt_and_answer`."""
    given = _input(tokenizer, example, demonstration, settings, source)
    return _around_answer(_Renderer(tokenizer, given, source, moment), given, source)[0]


def chat_prompt_and_answer(
    tokenizer: PreTrainedTokenizerBase | None,
    example: Example,
    demonstration: Example | None = None,
    *,
    source: str | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = _AS_IT_IS,
) -> tuple[str, str]:
    """What the chat template writes before the example's answer, and the answer as it writes it.

    source: the text of a Jinja template in place of the tokenizer's own. moment: what its `strftime_now` tells, by
    default the time of the call. settings: what it is told, and which part of the answer is scored.

    Raises ValueError where the tokenizer has no chat template, and TemplateRefusalError where the template refuses
    the turns or changes more of the answer than its blanks.
    """
    given = _input(tokenizer, example, demonstration, settings, source)
    written = _Renderer(tokenizer, given, source, moment)
    if not example.response and not reasoning_of(given.answer):
        return _around_answer(written, given, source)[0], ""
    has_reasoning = bool(reasoning_block(example.response) or reasoning_of(given.answer).strip())
    if given.answer.get("tool_calls") or has_reasoning:
        needed = settings.reasoning != "drop" and not given.later
        span = answer_span(written, given.before, given.answer, _name(source), needs_reasoning=needed)
        context, answer = span.parts(settings.reasoning)
    else:
        context, answer = _plain_answer(written, given, source)
        if settings.reasoning == "only":
            answer = ""
    if settings.reasoning == "drop" and not has_reasoning:  # an empty block that the row holds is none of the answer
        block, answer = split_reasoning(answer)
        context += block
    _check_kept(demonstration, context, settings, source)
    return context, answer


def chat_prompts_and_answers(
    tokenizer: PreTrainedTokenizerBase | None,
    turns: Sequence[Example],
    demonstration: Example | None = None,
    *,
    source: str | None = None,
    moment: datetime | None = None,
    settings: ChatSettings = _AS_IT_IS,
) -> list[tuple[str, str]]:
    """The same for several turns of one conversation, in order (`scored_turns`).

    Answers that are nothing but texts are found together, by two renderings of the conversation however many they are;
    others, and all of them where that does not split it, one by one.
    """
    whole = _input(tokenizer, turns[-1], demonstration, settings, source)
    messages = [*whole.before, whole.answer]
    places = [len(messages) - 1 - message_count(turns[-1]) + message_count(one) for one in turns]
    texts = [number for number, place in enumerate(places) if _is_text(messages[place])]
    found: dict[int, tuple[str, str]] = {}
    if len(texts) > 1:
        written = _Renderer(tokenizer, whole, source, moment)
        spans = _answers_together(written, messages, [places[number] for number in texts])
        for number, (context, answer) in zip(texts, spans, strict=False):
            _check_kept(demonstration, context, settings, source)
            found[number] = context, "" if settings.reasoning == "only" else answer
    told: dict[str, Any] = {"source": source, "moment": moment, "settings": settings}
    return [
        found[number] if number in found else chat_prompt_and_answer(tokenizer, one, demonstration, **told)
        for number, one in enumerate(turns)
    ]


def _is_text(answer: Message) -> bool:
    """Whether an answer is nothing but a text, without reasoning."""
    text = answer.get("content") or ""
    apart = answer.get("tool_calls") or reasoning_of(answer).strip()
    return bool(text.strip()) and not apart and "</think>" not in text


def _answers_together(written: _Renderer, messages: list[Message], places: Sequence[int]) -> list[tuple[str, str]]:
    """Context and answer of the texts at these places, in one rendering, as it is between what stands around stand-ins
    for all of them; none where the two do not make up the whole, or other blanks change than those at an answer's ends.
    """
    whole, marked = written(messages), list(messages)
    for place in places:
        marked[place] = {"role": "assistant", "content": STAND_IN}
    around = written(marked).split(STAND_IN)
    if len(around) != len(places) + 1 or not whole.startswith(around[0]):
        return []
    found, at = [], len(around[0])
    for place, after in zip(places, around[1:], strict=True):
        text = messages[place]["content"]
        answer = next((one for one in (text, text.strip()) if whole.startswith(one + after, at)), None)
        if answer is None:
            return []
        found.append((whole[:at], answer))
        at += len(answer) + len(after)
    return found if at == len(whole) else []


def _plain_answer(written: _Renderer, given: ChatInput, source: str | None) -> tuple[str, str]:
    """Context and answer of an answer that is nothing but its text."""
    before, after = _around_answer(written, given, source)
    text = given.answer["content"]
    whole = written([*given.before, given.answer])
    if not _encloses(whole, before, after):
        # Templates that look into the answer (a block of reasoning that it begins with) write other text before it.
        before = written(given.before, generation=True)
    answer = whole[len(before) : len(whole) - len(after)] if _encloses(whole, before, after) else ""
    if answer.split() != text.split() and begins_with_empty_block(text):
        return answer_span(written, given.before, given.answer, _name(source)).parts("keep")
    if answer.split() != text.split():
        raise TemplateRefusalError(
            f"{_name(source)} changes more than blanks in the answer {shortened(text, 80)}; "
            "use template 'plain' or 'alpaca'"
        )
    return before, answer


def _input(
    tokenizer: PreTrainedTokenizerBase | None,
    example: Example,
    demonstration: Example | None,
    settings: ChatSettings,
    source: str | None,
) -> ChatInput:
    if tokenizer is None:
        raise ValueError("template 'chat' needs a tokenizer")
    if source is None and not getattr(tokenizer, "chat_template", None):
        raise ValueError("template 'chat': the tokenizer has no chat template; use template 'plain' or 'alpaca'")
    try:
        return chat_input(example, demonstration, settings, source_of(tokenizer, source))
    except TemplateRefusalError as error:
        raise TemplateRefusalError(f"{_name(source)}: {error}") from None


def _check_kept(demonstration: Example | None, context: str, settings: ChatSettings, source: str | None) -> None:
    """Raise TemplateRefusalError where a demonstration's reasoning is to be kept, and is not in the context."""
    if demonstration is None or not settings.keep_reasoning:
        return
    if not is_written(reasoning_in(demonstration, with_answer=True), context):
        raise TemplateRefusalError(
            f"{_name(source)} takes the reasoning out of earlier turns, and has no switch to keep it"
        )


def _around_answer(written: _Renderer, given: ChatInput, source: str | None) -> tuple[str, str]:
    before, found, after = written([*given.before, {"role": "assistant", "content": STAND_IN}]).rpartition(STAND_IN)
    if not found:
        raise TemplateRefusalError(f"{_name(source)} leaves out or changes the last assistant turn")
    return before, after


class _Renderer:
    """A template with what one conversation tells it beside the messages."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | None, given: ChatInput, source: str | None, moment: datetime | None
    ) -> None:
        self.source, self.later = source, given.later
        self.render = functools.partial(
            render, tokenizer, source=source, moment=moment, tools=given.tools, template_kwargs=given.template_kwargs
        )

    def __call__(self, messages: list[Message], *, generation: bool = False, alone: bool = False) -> str:
        """Messages that end with an answer, and those after it; or without these, and with the generation prompt."""
        messages = messages if generation or alone else [*messages, *self.later]
        try:
            return self._written(messages, generation)
        except TemplateLimitError as error:
            raise TemplateLimitError(f"{_name(self.source)} {error}") from None
        except Exception as error:  # whatever its program comes upon
            roles = ", ".join(message["role"] for message in messages)
            reason = first_line(error)
            if "no attribute 'content'" in reason and any(message.get("content") is None for message in messages):
                reason = "it reads the content of a turn that has calls of tools in its place (content: null)"
            raise TemplateRefusalError(
                f"{_name(self.source)} refuses the turns {roles}: {reason[:_LONGEST_REASON]}"
            ) from None

    def _written(self, messages: list[Message], generation: bool) -> str:
        try:
            return self.render(messages, generation=generation)
        except TypeError:  # some join the arguments of a call to a text
            if not any(message.get("tool_calls") for message in messages):
                raise
            return self.render(with_arguments_as_text(messages), generation=generation)


def _name(source: str | None) -> str:
    return "template 'chat': the tokenizer's chat template" if source is None else "template: the Jinja chat template"


def _encloses(whole: str, before: str, after: str) -> bool:
    return whole.startswith(before) and whole.endswith(after) and len(whole) >= len(before) + len(after)
