"""Where in a rendered conversation the answer begins, where its reasoning ends, and where it ends.

All of it is found by rendering: with the answer, without it, and with texts in the place of its parts that no data
hold. An answer begins where the model begins to write, after the generation prompt, whoever opened the block of
reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from instsel.prompts.chat_messages import TemplateRefusalError, reasoning_of
from instsel.records.chat import REASONING_KEYS
from instsel.records.formats import shortened
from instsel.records.json_types import Message

STAND_IN = "\ue000the answer\ue000"  # a text that templates copy as it is and that data does not hold
_REASONING = "\ue000the reasoning\ue000"
_UNLIKE = "writes the turns before the answer otherwise once it is there, so that it cannot be split off"
_HANDS_OVER = re.compile(r"<\|[^<>|]+\|?>\s*\Z")  # <|call|>, <|observation|>, <|tool_response>: ends a turn that calls
_BLOCK = re.compile(r"(\s*(?:<think>)?)(.*?)(</think>)(.*)", re.DOTALL)

Render = Callable[..., str]  # of messages, with those after the answer, or `alone`, or with the `generation` prompt


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """A rendered conversation, and in it the answer `[start, end)`, whose reasoning ends at `middle`."""

    text: str
    start: int
    middle: int
    end: int

    def parts(self, reasoning: str) -> tuple[str, str]:
        """Context and scored text: all of the answer, what follows its reasoning, or the reasoning "only"."""
        start, end = {"keep": (self.start, self.end), "drop": (self.middle, self.end)}.get(
            reasoning, (self.start, self.middle)
        )
        return self.text[:start], self.text[start:end]


def split_reasoning(text: str) -> tuple[str, str]:
    """A text that begins with a block of reasoning, be it empty, as that block and the rest; ("", text) where not.

    >>> split_reasoning("<think>1 and 2</think>3")
    ('<think>1 and 2</think>', '3')
    """
    found = _BLOCK.fullmatch(text)
    if found is None:
        return "", text
    rest = found[4].lstrip()
    return text[: len(text) - len(rest)], rest


def reasoning_block(text: str) -> str:
    """The block of reasoning that a text begins with; "" where there is none, or nothing in it.

    >>> reasoning_block("<think>1 and 2</think>3"), reasoning_block("<think></think>3")
    ('<think>1 and 2</think>', '')
    """
    return "" if begins_with_empty_block(text) else split_reasoning(text)[0]


def begins_with_empty_block(text: str) -> bool:
    """Whether a text begins with a block of reasoning in which there is none.

    >>> begins_with_empty_block("<think></think>3")
    True
    """
    found = _BLOCK.fullmatch(text)
    return found is not None and not found[2].strip()


def answer_span(
    render: Render, before: list[Message], answer: Message, name: str, *, needs_reasoning: bool = True
) -> AnswerSpan:
    """The span of an answer with reasoning, or with calls of tools, after the messages before it.

    name: of the template, for errors. needs_reasoning: whether a template may not leave it out. Raises
    TemplateRefusalError where the rendering cannot be split safely.
    """
    whole = render([*before, answer])
    text, held = answer.get("content") or "", reasoning_of(answer)
    block = None if held.strip() else _BLOCK.fullmatch(text)
    inline = block is not None and bool(block[2].strip())
    reasoning, content = (block[2], block[4]) if inline and block is not None else (held, text)
    calls = answer.get("tool_calls", ())
    if calls and (reasoning.strip() or whole != render([*before, answer], alone=True)):
        place, end = _calls_within(render, before, answer, whole, name)
        marked = whole[:place] + STAND_IN
    else:
        marked = _marked(render, before, {}, name)
        place = marked.index(STAND_IN)
        end = _end(render, [*before, answer], whole, marked[place + len(STAND_IN) :], name)
    if reasoning.strip():
        key = next((key for key in REASONING_KEYS if key in answer), "")
        stand_in = {"content": f"{block[1]}{_REASONING}</think>{STAND_IN}"} if inline and block else {key: _REASONING}
        probe = render([*before, {**answer, **stand_in}])
        written = probe.count(_REASONING)
        if written != 1 and (written or needs_reasoning):
            raise TemplateRefusalError(f"{name} leaves out the answer's reasoning")
        reasoning = reasoning if written else ""
    if reasoning.strip():
        first = probe.index(_REASONING)
        if not whole.startswith(probe[:first]):
            raise TemplateRefusalError(f"{name} {_UNLIKE}")
        start = _start(render, before, whole, first, name)
        if calls:
            middle = place
        else:
            shown = _marked(render, before, stand_in, name)
            middle = _after(whole, first, reasoning, shown.partition(_REASONING)[2].partition(STAND_IN)[0])
    elif whole.startswith(marked[:place]):
        start = middle = place  # past an empty block of reasoning, which the template writes and not the row
    else:
        start = middle = _start(render, before, whole, end, name)
    found, wanted = without_blanks(whole[middle:end]), without_blanks(content)
    if begins_with_empty_block(text) and not reasoning.strip() and found != wanted:
        wanted = without_blanks(text.partition("</think>")[2])  # the template has written a block of its own
    if not (wanted in found if calls else found == wanted):
        raise TemplateRefusalError(f"{name} changes more than blanks in the answer {shortened(content, 80)}")
    if any(call["function"]["name"] not in whole[middle:end] for call in calls):
        raise TemplateRefusalError(f"{name} leaves out the calls of tools in the answer")
    return AnswerSpan(whole, start, middle, end)


def _end(render: Render, messages: list[Message], whole: str, tail: str, name: str) -> int:
    """Where an answer ends: before what follows another one, or where its turn ends otherwise (calls) before the token
    that ends it, or with the turn where there is no such token.
    """
    if whole.endswith(tail):
        return len(whole) - len(tail)
    alone = render(messages, alone=True)
    if not whole.startswith(alone):
        raise TemplateRefusalError(f"{name} {_UNLIKE}")
    handed = _HANDS_OVER.search(alone)
    return len(alone) if handed is None else handed.start()


def _calls_within(render: Render, before: list[Message], answer: Message, whole: str, name: str) -> tuple[int, int]:
    """Where an answer with calls begins, its reasoning left aside, and where it ends, before turns that follow it.

    What tools answer cannot follow a text, and some templates write it into the turn that calls: the answer is found as
    it is written where nothing follows it, by the place of its first call's name.
    """

    def alone(messages: list[Message], *, generation: bool = False, alone: bool = True) -> str:
        return render(messages, generation=generation, alone=not generation)

    bare = {key: value for key, value in answer.items() if key not in REASONING_KEYS}
    block = _BLOCK.fullmatch(bare.get("content") or "")
    if block is not None:
        bare["content"] = block[4]
    span = answer_span(alone, before, bare, name)
    first = answer["tool_calls"][0]
    unnamed = {"tool_calls": [{**first, "function": {**first["function"], "name": STAND_IN}}]}
    told = render([*before, {**answer, **unnamed}]).partition(STAND_IN)
    own = alone([*before, {**bare, **unnamed}]).partition(STAND_IN)
    place = len(told[0]) - (len(own[0]) - span.middle)
    body = span.text[span.middle : span.end]
    if not (told[1] and own[1]) or place < 0 or not whole.startswith(body, place):
        raise TemplateRefusalError(f"{name} {_UNLIKE}")
    return place, place + len(body)


def _marked(render: Render, before: list[Message], keys: dict[str, str], name: str) -> str:
    """The rendering of an answer that is stand-ins; TemplateRefusalError where its content is not found once in it."""
    found = render([*before, {"role": "assistant", "content": STAND_IN, **keys}])
    if found.count(STAND_IN) != 1:
        raise TemplateRefusalError(f"{name} leaves out or changes the last assistant turn")
    return found


def _after(whole: str, first: int, reasoning: str, closing: str) -> int:
    """Where what follows the reasoning, and what closes it, begins; right after the reasoning if nothing closes it so.

    Raises TemplateRefusalError where the reasoning is not to be found.
    """
    wanted = without_blanks(reasoning)
    at = whole.find(closing, first) if closing else -1
    while at >= 0:
        if without_blanks(whole[first:at]) == wanted:
            return at + len(closing)
        at = whole.find(closing, at + 1)
    if whole.startswith(reasoning.strip(), first):
        return first + len(reasoning.strip())
    raise TemplateRefusalError("the chat template changes more than blanks in the answer's reasoning")


def _start(render: Render, before: list[Message], whole: str, first: int, name: str) -> int:
    """Where the model begins to write: the generation prompt's end, or where it and the whole part within it."""
    prompt = render(before, generation=True)
    common = _common(prompt, whole)
    if common < _common(prompt, render(before, alone=True)):
        raise TemplateRefusalError(f"{name} {_UNLIKE}")
    return common if common == len(prompt) else min(common, first)


def _common(one: str, other: str) -> int:
    """With how many characters two texts begin alike."""
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


def without_blanks(text: str) -> str:
    """All that can be seen of a text."""
    return "".join(text.split())
