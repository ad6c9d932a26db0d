"""Which format a set of columns is: mapped, unclear, mixed."""

from __future__ import annotations

import pyarrow as pa
import pytest

from instsel.records import Example, Group, to_examples, to_groups
from instsel.records.formats import detect_layout

USER, ANSWER = "Add 1 and 2.", "3"
SAME = Example(USER, "", ANSWER)
TURNS = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}]


def test_columns():
    row = {"question": USER, "answer": ANSWER, "instruction": "other", "output": "other"}
    assert to_examples([row], columns={"instruction": "question", "response": "answer"}) == [SAME]
    assert to_examples([row], columns={"prompt": "question", "completion": "answer"}) == [SAME]
    assert to_examples([row], columns={"instruction": "question", "output": "answer"}) == [SAME]
    two = {"instruction": "other", "output": "other", "messages": TURNS}
    assert to_examples([two], columns={"messages": "messages"}) == [SAME]
    assert to_examples([two], columns={"instruction": "instruction"}) == [Example("other", "", "other")]
    both = {"instruction": USER, "output": ANSWER, "response": "4"}
    assert to_examples([both], columns={"response": "output"}) == [SAME]
    assert to_groups([{"q": USER, "all": ["3"]}], columns={"instruction": "q", "candidates": "all"}) == [
        Group(USER, "", ("3",))
    ]
    for columns, message in (
        ({"question": "instruction"}, "unknown field 'question'; the fields are instruction, input"),
        ({"instruction": "absent"}, "'absent', which is not among the columns 'question', 'answer'"),
        ({"response": "answer", "output": "answer"}, "'response' is given twice"),
    ):
        with pytest.raises(ValueError, match=message):
            to_examples([row], columns=columns)
    with pytest.raises(TypeError, match="columns must map"):
        to_examples([row], columns=["instruction"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "answer": "b"},
            "unknown format: found the columns 'question', 'answer'; expected instruction",
        ),
        ({"instruction": "a"}, "unknown format: found the columns 'instruction'"),
        ({}, r"found the columns \(none\)"),
        ({"instruction": "a", "candidates": ["b"]}, "these are candidate groups"),
        ({"instruction": "a", "output": "b", "messages": TURNS}, "ambiguous format.*alpaca.*or messages"),
        ({"instruction": "a", "prompt": "b", "response": "c"}, "ambiguous format.*alpaca.*prompt and completion"),
        ({"instruction": "a", "output": "b", "response": "c"}, "'output' and 'response' are both present"),
        ({"messages": TURNS, "conversations": TURNS}, "'messages' and 'conversations' are both present"),
        ({"messages": TURNS, "prompt": "a", "chosen": TURNS, "rejected": TURNS}, "ambiguous format"),
    ],
)
def test_unclear_columns_are_an_error(row, message):
    for rows in ([row], pa.Table.from_pylist([row]) if row else [row, row]):
        with pytest.raises(ValueError, match=message):
            to_examples(rows)


def test_rows_of_different_formats():
    rows = [{"instruction": "a", "output": "b"}] * 3 + [{"messages": TURNS}]
    with pytest.raises(ValueError, match=r"ambiguous format.*row 0 has.*'instruction'.*row 3 has.*'messages'"):
        to_examples(rows)
    first = detect_layout(["instruction", "output"])
    with pytest.raises(ValueError, match=r"row 5 .*has no column 'instruction'"):  # a later batch of a stream
        to_examples(rows[3:], layout=first, first_row=5)


@pytest.mark.parametrize(
    ("names", "kind", "says"),
    [
        (["question", "answer"], "example", r"; --columns FIELD=COLUMN \(columns={...} in Python\) maps others$"),
        (["instruction", "output", "messages"], "example", r"--columns FIELD=COLUMN \(columns={...} in Python\) says"),
        (["instruction", "output", "response"], "example", r"response=COLUMN \(columns={...} in Python\) names"),
        (["instruction", "candidates"], "example", r"which grape reads \(to_groups in Python\)"),
    ],
)
def test_errors_name_the_flag_as_well_as_what_python_calls_it(names: list[str], kind: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        detect_layout(names, kind=kind)
