"""Every format of rows comes to the same examples; what cannot be read is named."""

from __future__ import annotations

import math
import warnings

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instsel.records import Example, Group, to_examples, to_groups

USER, ANSWER = "Add 1 and 2.", "3"
SAME = Example(USER, "", ANSWER)
TURNS = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}]
SHAREGPT = [{"from": "human", "value": USER}, {"from": "gpt", "value": ANSWER}]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": USER, "output": ANSWER},
        {"instruction": USER, "input": None, "response": ANSWER, "id": 7},
        {"messages": TURNS, "prompt": USER},
        {"conversations": SHAREGPT, "system": None},
        {"conversation": TURNS},
        {"conversations": [{**a, "role": None, "content": None} for a in SHAREGPT]},  # as Arrow unifies mixed turns
        {"prompt": USER, "completion": ANSWER},
        {"prompt": USER, "response": ANSWER, "input": 5},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"prompt": [{"type": "text", "text": USER}], "completion": ANSWER},
        {"messages": [{"role": t["role"], "content": [{"type": "text", "text": t["content"]}]} for t in TURNS]},
        {"prompt": USER, "chosen": ANSWER, "rejected": "4"},
        {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": []},
        {"chosen": TURNS, "rejected": TURNS[:1]},
        {"prompt": USER, "chosen": TURNS, "rejected": TURNS[:1]},
        {"instruction": USER, "chosen": ANSWER, "rejected": "4"},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]},
        {"messages": [*TURNS, TURNS[0]]},  # what follows the last answer is not part of it
    ],
)
def test_formats_agree(row):
    assert to_examples([row]) == [SAME]
    assert to_examples(pa.Table.from_pylist([row])) == [SAME]


def test_multiple_turns():
    """The last assistant turn is the answer, everything before it the prompt."""
    turns = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "And 2+2?"), ("assistant", "4")]
    want = [Example("And 2+2?", "", "4", tuple(turns[:3]))]
    assert to_examples([{"messages": [{"role": role, "content": text} for role, text in turns]}]) == want
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    assert to_examples([{"conversations": [{"from": names[role], "value": text} for role, text in turns]}]) == want
    alpaca = {"instruction": "And 2+2?", "output": "4", "history": [["1+1?", "2"]], "system": "Be brief."}
    assert to_examples([alpaca]) == want
    assert to_examples([{"messages": [{"role": r, "content": t} for r, t in turns[1:]], "system": "Be brief."}]) == want
    assert to_examples([{"prompt": [{"role": r, "content": t} for r, t in turns[:4]], "completion": "4"}]) == want


def test_groups():
    want = [Group(USER, "", ("3", "4"))]
    for row in (
        {"instruction": USER, "candidates": [{"response": "3", "source": "a"}, {"response": "4"}]},
        {"instruction": USER, "candidates": ["3", "4"], "output": "3"},
        {"instruction": USER, "responses": [{"output": "3", "response": None}, {"response": "4", "output": None}]},
        {"prompt": USER, "candidates": ["3", "4"]},
        {"messages": TURNS[:1], "candidates": ["3", "4"]},
        {"prompt": USER, "chosen": "3", "rejected": "4"},
        {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "4"}]},
    ):
        assert to_groups([row]) == want
    assert to_groups([{"instruction": USER, "candidates": None}, {"instruction": None, "candidates": []}]) == [
        Group(USER),
        Group(""),
    ]
    with pytest.raises(ValueError, match="different prompts"):
        to_groups([{"chosen": TURNS, "rejected": [{"role": "user", "content": "other"}, TURNS[1]]}])


def test_missing_text_is_empty():
    nan = math.nan
    rows = [{"instruction": None, "input": nan, "output": nan}, {"instruction": "", "input": "", "output": None}]
    assert to_examples(rows) == [Example("")] * 2
    assert to_examples([{"messages": None}, {"messages": []}, {"messages": TURNS[:1]}]) == [
        Example(""),
        Example(""),
        Example(USER),
    ]
    assert to_examples([{"instruction": 42, "output": 2**70}]) == [Example("42", "", str(2**70))]


def test_records_pass_through():
    assert to_examples([SAME, {"instruction": USER, "output": ANSWER}, SAME]) == [SAME] * 3
    assert to_examples(iter([SAME])) == [SAME]
    assert to_examples([]) == []


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (
            {"instruction": "a", "output": "b"},
            {"instruction": "a", "output": ["b"]},
            "'output' must hold text, got list",
        ),
        ({"instruction": "a", "output": "b"}, {"instruction": True, "output": ""}, "must hold text, got bool"),
        ({"instruction": "a", "output": "b"}, {"instruction": {}, "output": ""}, "must hold text, got dict"),
        ({"instruction": "a", "output": "b"}, {"instruction": b"", "output": ""}, "must hold text, got bytes"),
        ({"instruction": "a", "output": "b"}, {"instruction": math.inf, "output": ""}, "must hold text, got float"),
        (
            {"instruction": "a", "output": "b"},
            {"output": "b"},
            "has no column 'instruction', only the columns 'output'",
        ),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "text": "b"}, "has no column 'output'"),
        ({"messages": TURNS}, {"messages": "text"}, "must hold a list of turns, got str"),
        ({"messages": TURNS}, {"messages": ["text"]}, "a turn must be a mapping, got str"),
        ({"messages": TURNS}, {"messages": [{"role": "user"}]}, "a turn needs role and content"),
        ({"messages": TURNS}, {"messages": [{"content": "a"}]}, "a turn needs role and content"),
        ({"messages": TURNS}, {"messages": [{"role": "oracle", "content": "a"}]}, "role 'oracle' is not one of"),
        ({"messages": TURNS}, {"messages": TURNS[1:]}, "before the answer must be the user's, found none"),
        ({"messages": TURNS}, {"messages": [*TURNS, TURNS[1]]}, "must be the user's, got one of role 'assistant'"),
        (
            {"messages": TURNS},
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, TURNS[1]]},
            "content that is not text",
        ),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            {"prompt": "a", "chosen": 1j, "rejected": "c"},
            "got complex",
        ),
        ({"chosen": TURNS, "rejected": TURNS}, {"chosen": "a", "rejected": "b"}, "has no prompt"),
        (
            {"instruction": "a", "output": "b", "history": None},
            {"instruction": "a", "output": "b", "history": [["a"]]},
            "must hold a list of pairs",
        ),
    ],
)
def test_a_row_that_cannot_be_read_is_named(good, bad, message):
    with pytest.raises(ValueError, match=rf"^row 2 \(counting from 0\): .*{message}"):
        to_examples([good, good, bad])
    with pytest.raises(ValueError, match=rf"^row 102 \(counting from 0\): .*{message}"):
        to_examples([good, good, bad], first_row=100)


def test_candidates_that_cannot_be_read():
    good = {"instruction": "a", "candidates": ["b"]}
    for value, message in (
        ("b", "list of candidates, got str"),
        ([{"text": "b"}], "needs 'response'"),
        ([[1]], "list"),
    ):
        with pytest.raises(ValueError, match=rf"^row 1 \(counting from 0\): .*{message}"):
            to_groups([good, {"instruction": "a", "candidates": value}])


def test_messages_are_short_and_hold_no_control_characters():
    """Column names and roles come from the data."""
    name = "\x1b[31m" + "a" * 10_000
    for row in (
        {f"{name}{n}": "b" for n in range(1000)},
        {"messages": [{"role": name, "content": "a"}]},
        {"messages": [{name: "a"}]},
        {"messages": [{"role": "user", "content": [{"type": name}]}]},
        {"instruction": name, "candidates": [{name: "a"}]},
    ):
        for read in (to_examples, to_groups):
            with pytest.raises(ValueError) as error:
                read([row])
            assert len(str(error.value)) < 2000 and "\x1b" not in str(error.value)


def test_things_that_hold_no_rows():
    for rows, message in (
        ("file.json", "read_rows"),
        ({"instruction": "a"}, "sequence of rows, got one dict"),
        ([SAME, "text"], r"row 1 \(counting from 0\) must be a mapping, got str"),
        ([["a", "b"]], "must be a mapping, got list"),
        (pa.array([1]), "pyarrow Table"),
    ):
        with pytest.raises(TypeError, match=message):
            to_examples(rows)


def test_lone_surrogates():
    """Replaced by U+FFFD with one warning that counts them; pairs written as two escapes are one character."""
    row = {"instruction": "a\ud800b", "output": "\udc00\ud83d\ude42"}
    with pytest.warns(UserWarning, match="^2 lone surrogates") as caught:
        got = to_examples([row, {"instruction": "漢🙂", "output": "b\x00\u202e"}])
    assert len(caught) == 1
    assert got == [Example("a\ufffdb", "", "\ufffd🙂"), Example("漢🙂", "", "b\x00\u202e")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_examples([{"instruction": "\ufffd", "output": "漢"}])


def test_a_record_batch_and_a_hugging_face_dataset():
    rows = [{"instruction": str(n), "input": None, "output": "x" * n} for n in range(10)]
    want = [Example(str(n), "", "x" * n) for n in range(10)]
    table = pa.Table.from_pylist(rows)
    assert to_examples(table.to_batches()[0]) == to_examples(table) == to_examples(rows) == want
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(rows)
    assert to_examples(dataset) == want
    assert to_examples(dataset.with_format("numpy").select([3, 1])) == [want[3], want[1]]
    assert to_examples(dataset.to_iterable_dataset()) == want
    with pytest.raises(TypeError, match="got one DatasetDict"):
        to_examples(datasets.DatasetDict(train=dataset))


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=4) | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "type", "response"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["instruction", "input", "output", "messages", "prompt", "completion", "chosen", "rejected", "candidates", "system"]
)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=3))
def test_any_rows_are_read_or_refused(rows):
    """One record a row, all text clean, or a ValueError of one line."""
    for read, kind in ((to_examples, Example), (to_groups, Group)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                got = read(rows)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert len(got) == len(rows) and all(isinstance(record, kind) for record in got)
        for record in got:
            texts = [record.instruction, record.input, *(text for _, text in record.history)]
            texts += [record.response] if isinstance(record, Example) else record.responses
            assert all(isinstance(text, str) and text.encode() is not None for text in texts)
