"""Rows that a template refuses, found before any is scored: their reasons, and `Unreadable` in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from instsel.methods.parameters import Parameters, read_moment
from instsel.prompts import is_chat_template
from instsel.prompts.reached_keys import (
    DEMONSTRATED,
    EARLIER,
    RESULTS,
    is_written,
    reached_keys,
    reasoning_in,
    results_of,
)
from instsel.prompts.scored_turns import scored_turns
from instsel.prompts.templates import REFUSALS, turn_prompts
from instsel.records import Example, Group, Unreadable
from instsel.records.examples import ReadRow
from instsel.records.unread_keys import UnreadKeys

if TYPE_CHECKING:
    from instsel.engine.scorer_protocol import ScorerProtocol


def refused_rows(
    records: Mapping[int, ReadRow],
    parameters: Parameters,
    scorer: ScorerProtocol,
    unread: UnreadKeys,
) -> dict[int, str]:
    """Why the template refuses those of the rows that it does; a group where it refuses each of its answers.

    `unread` has counted the keys of these rows; those that a chat template writes are taken from it, and the rows added
    whose reasoning it takes out of earlier turns, or would take out of a demonstration.

    Raises ValueError where the tokenizer has no chat template, or the template may never end.
    """
    if not parameters.uses_template:
        return {}
    tokenizer, moment = scorer.tokenizer, read_moment(parameters.template_date)
    settings = parameters.chat_settings()

    def written(turns: list[Example], demonstration: Example | None = None) -> str:
        """The text up to the end of the last of some turns."""
        pairs = turn_prompts(
            parameters.template,
            turns,
            demonstration=demonstration,
            tokenizer=tokenizer,
            moment=moment,
            settings=settings,
        )
        return "".join(pairs[-1])

    def reason(example: Example) -> str:
        try:
            turns = scored_turns(example, parameters.score_turns)
            text = written(turns if turns and turns[-1] is example else [*turns, example])
            if is_chat:
                note(example, text)
        except REFUSALS as error:
            return str(error)
        return ""

    def note(example: Example, text: str) -> None:
        if example.chat is not None:
            reached.append(reached_keys(example.chat, text))
            if not is_written(results_of(example.chat), text):
                lost.add(RESULTS)
        if not is_written(reasoning_in(example, with_answer=False), text):
            lost.add(EARLIER)
        shown = reasoning_in(example, with_answer=True) if parameters.shows_demonstrations else []
        if shown and not settings.keep_reasoning and not is_written(shown, written([Example("?", "", "!")], example)):
            lost.add(DEMONSTRATED)

    is_chat, reached, lost = is_chat_template(parameters.template), list[list[str]](), set[str]()

    found: dict[int, str] = {}
    for row, record in records.items():
        if isinstance(record, Unreadable):
            continue
        reached.clear()
        lost.clear()
        reasons = [reason(one) for one in answers_of(record)]
        unread.reached(key for key in (reached[0] if reached else ()) if all(key in keys for keys in reached))
        unread.counts.update(lost)
        if reasons and all(reasons):
            found[row] = reasons[0]
    return found


def answers_of(record: Example | Group) -> list[Example]:
    """A record's answers with their prompts: one, or those of a group."""
    return [record] if isinstance(record, Example) else record.examples
