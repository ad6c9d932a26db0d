"""Rows that a template refuses, found before any is scored: their reasons, and `Unreadable` in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from instsel.methods.parameters import Parameters, read_moment
from instsel.prompts import prompt_and_answer
from instsel.prompts.templates import REFUSALS
from instsel.records import Example, Group, Unreadable

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer


def refused_rows(records: Mapping[int, Any], parameters: Parameters, scorer: Scorer) -> dict[int, str]:
    """Why the template refuses those of the rows that it does; a group where it refuses each of its answers.

    Raises ValueError where the tokenizer has no chat template, or the template may never end.
    """
    if not parameters.uses_template or parameters.template in ("plain", "alpaca"):
        return {}
    tokenizer, moment = scorer.tokenizer, read_moment(parameters.template_date)

    def reason(example: Example) -> str:
        try:
            prompt_and_answer(parameters.template, example, tokenizer=tokenizer, moment=moment)
        except REFUSALS as error:
            return str(error)
        return ""

    found: dict[int, str] = {}
    for row, record in records.items():
        if isinstance(record, Unreadable):
            continue
        reasons = [reason(one) for one in _answers(record)]
        if reasons and all(reasons):
            found[row] = reasons[0]
    return found


def _answers(record: Example | Group) -> list[Example]:
    if isinstance(record, Example):
        return [record]
    return [Example(record.instruction, record.input, one, record.history) for one in record.responses]
