"""Examples in the wording of a tokenizer's chat template.

The template is rendered as text, never as token ids, so that context and answer are tokenised as one text. The context
is what the template writes before the finished answer: its generation prompt, and what it puts between that and the
answer, such as an empty block of reasoning. The answer is as the template writes it, which may change its blanks. What
the template writes after the answer, the end of the turn, is not scored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from instsel.prompts.jinja_rendering import TemplateLimitError, render
from instsel.records import Example

_LONGEST_REASON = 200  # characters: a template may put what it likes there
STAND_IN = "\ue000the answer\ue000"  # a text that templates copy as it is and that data does not hold


class TemplateRefusalError(ValueError):
    """What a chat template makes of one example cannot be scored."""


def chat_prompt(
    tokenizer: Any,
    example: Example,
    demonstration: Example | None = None,
    *,
    source: str | None = None,
    moment: datetime | None = None,
) -> str:
    """What the chat template writes before the example's answer; arguments as `chat_prompt_and_answer`."""
    return _around_answer(tokenizer, _prompt_messages(example, demonstration), source, moment)[0]


def chat_prompt_and_answer(
    tokenizer: Any,
    example: Example,
    demonstration: Example | None = None,
    *,
    source: str | None = None,
    moment: datetime | None = None,
) -> tuple[str, str]:
    """What the chat template writes before the example's answer, and the answer as it writes it.

    source: the text of a Jinja template in place of the tokenizer's own. moment: what its `strftime_now` tells, by
    default the time of the call.

    Raises ValueError where the tokenizer has no chat template, and TemplateRefusalError where the template refuses
    the turns or changes more of the answer than its blanks.
    """
    messages = _prompt_messages(example, demonstration)
    before, after = _around_answer(tokenizer, messages, source, moment)
    if not example.response:
        return before, ""
    whole = _render(tokenizer, [*messages, _message("assistant", example.response)], source, moment)
    if not _encloses(whole, before, after):
        # Templates that look into the answer (a block of reasoning that it begins with) write other text before it.
        before = _render(tokenizer, messages, source, moment, add_generation_prompt=True)
    answer = whole[len(before) : len(whole) - len(after)] if _encloses(whole, before, after) else ""
    if answer.split() != example.response.split():
        raise TemplateRefusalError(
            f"{_name(source)} changes more than blanks in the answer "
            f"{_cut(example.response)}; use template 'plain' or 'alpaca'"
        )
    return before, answer


def _prompt_messages(example: Example, demonstration: Example | None) -> list[dict[str, str]]:
    turns: list[tuple[str, str]] = []
    if demonstration is not None:
        turns += [*demonstration.history, ("user", _user_text(demonstration)), ("assistant", demonstration.response)]
    history = example.history
    if turns and history and history[0][0] == "system" and history[0] == turns[0]:
        history = history[1:]  # one system prompt for both
    turns += [*history, ("user", _user_text(example))]
    return [_message(role, text) for role, text in turns]


def _user_text(example: Example) -> str:
    return example.instruction + ("\n" + example.input if example.input.strip() else "")


def _message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _around_answer(
    tokenizer: Any, messages: list[dict[str, str]], source: str | None, moment: datetime | None
) -> tuple[str, str]:
    whole = _render(tokenizer, [*messages, _message("assistant", STAND_IN)], source, moment)
    before, found, after = whole.rpartition(STAND_IN)
    if not found:
        raise TemplateRefusalError(f"{_name(source)} leaves out or changes the last assistant turn")
    return before, after


def _render(
    tokenizer: Any,
    messages: list[dict[str, str]],
    source: str | None,
    moment: datetime | None,
    *,
    add_generation_prompt: bool = False,
) -> str:
    if tokenizer is None:
        raise ValueError("template 'chat' needs a tokenizer")
    if source is None and not getattr(tokenizer, "chat_template", None):
        raise ValueError("template 'chat': the tokenizer has no chat template; use template 'plain' or 'alpaca'")
    try:
        return render(tokenizer, messages, source, generation=add_generation_prompt, moment=moment)
    except TemplateLimitError as error:
        raise TemplateLimitError(f"{_name(source)} {error}") from None
    except Exception as error:  # whatever its program comes upon
        roles = ", ".join(message["role"] for message in messages)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TemplateRefusalError(f"{_name(source)} refuses the turns {roles}: {reason[:_LONGEST_REASON]}") from None


def _name(source: str | None) -> str:
    return "template 'chat': the tokenizer's chat template" if source is None else "template: the Jinja chat template"


def _encloses(whole: str, before: str, after: str) -> bool:
    return whole.startswith(before) and whole.endswith(after) and len(whole) >= len(before) + len(after)


def _cut(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
