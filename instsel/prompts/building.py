"""Requests for `score_batch` from rows, by template: for programs that ask questions of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instsel.prompts.templates import prompt_and_answer
from instsel.prompts.tokenization import encode_pairs
from instsel.records import Example, to_examples
from instsel.records.json_types import JsonMapping

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = JsonMapping | Example


def build_request(
    row: Row,
    *,
    template: object = "plain",
    demonstration: Row | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[str, str]:
    """The prompt of a row and its answer, as a request: (context, continuation).

    row            a dict in any known format, or an `Example`
    template       "plain", "alpaca", "chat", a text with {instruction} and {input}, two of them (for rows with an
                   input and without), or the path of a .jinja file
    demonstration  a row shown with its answer before the prompt
    tokenizer      needed for chat templates

    Raises ValueError for a row that cannot be read or a template that cannot be filled with it.

    >>> row = {"instruction": "Add up.", "input": "2, 3", "output": "5"}
    >>> build_request(row, template="Q: {instruction} {input} A: ")
    ('Q: Add up. 2, 3 A: ', '5')
    """
    shown = None if demonstration is None else _example(demonstration)
    return prompt_and_answer(template, _example(row), demonstration=shown, tokenizer=tokenizer)


def build_request_ids(
    tokenizer: PreTrainedTokenizerBase, row: Row, *, template: object = "plain", demonstration: Row | None = None
) -> tuple[list[int], list[int]]:
    """The same as token ids, tokenised together: a token across the boundary counts as the answer's.

    Raises what `build_request` raises, and ValueError where nothing can stand before the answer.
    """
    pair = build_request(row, template=template, demonstration=demonstration, tokenizer=tokenizer)
    (encoded,) = encode_pairs(tokenizer, [pair])
    return encoded.ids[: encoded.start].tolist(), encoded.ids[encoded.start :].tolist()


def _example(row: Row) -> Example:
    return row if isinstance(row, Example) else to_examples([row])[0]
