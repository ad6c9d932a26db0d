"""Rows from tables: the records that dicts of the same values give, whatever a library has for a missing value."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from row_tables import KINDS, table_of

from instsel.records import Example, Group, open_rows, to_examples, to_groups

COLUMNS: dict[str, list[Any]] = {
    "instruction": ["Add 1 and 2.", "Say 漢字 🙂.", "Nothing."],
    "input": [None, "x\ny", None],
    "output": ["3", "", None],
}
EXAMPLES = [Example("Add 1 and 2.", "", "3"), Example("Say 漢字 🙂.", "x\ny", ""), Example("Nothing.", "", "")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_table_gives_the_records_of_its_rows(kind: str) -> None:
    assert to_examples(table_of(kind, COLUMNS)) == EXAMPLES
    turns = [[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    assert to_examples(table_of(kind, {"messages": turns})) == [Example("a", response="b")]
    groups = {"instruction": ["a", "b"], "candidates": [["x", "y"], []]}
    assert to_groups(table_of(kind, groups)) == [Group("a", responses=("x", "y")), Group("b")]
    many = {"instruction": [f"say {i}" for i in range(9000)], "output": [str(i) for i in range(9000)]}
    assert [e.response for e in to_examples(table_of(kind, many))] == many["output"]
    assert to_examples(table_of(kind, {"instruction": ["a"], "output": ["b"], "id": [None]})) == [Example("a", "", "b")]


@pytest.mark.parametrize("missing", ["NA", "NaT", "nan", "None"])
def test_missing_values_are_no_text(missing: str) -> None:
    import pandas

    value = {"NA": pandas.NA, "NaT": pandas.NaT, "nan": np.float32("nan"), "None": None}[missing]
    rows = [{"instruction": "a", "input": value, "output": "b"}, {"instruction": "c", "input": "", "output": value}]
    want = [Example("a", "", "b"), Example("c", "", "")]
    assert to_examples(rows) == want
    assert to_examples(pandas.DataFrame(rows, dtype=object)) == want
    assert to_examples({name: [row[name] for row in rows] for name in rows[0]}) == want
    if missing in ("NA", "None"):
        assert to_examples(pandas.DataFrame(rows, dtype="string")) == want


def test_columns_of_a_dict_may_be_arrays_and_series() -> None:
    import pandas
    import polars
    import pyarrow

    for make in (np.array, pandas.Series, polars.Series, pyarrow.array, lambda v: pyarrow.chunked_array([v]), tuple):
        columns = {"instruction": make(["a", "b"]), "output": ["c", "d"]}
        assert [e.instruction for e in to_examples(columns)] == ["a", "b"], make
    rows = pandas.DataFrame(COLUMNS, index=[7, 7, 9])[::-1]
    assert to_examples(rows) == EXAMPLES[::-1], "the index of a frame says nothing"


def test_rows_taken_out_of_a_frame_may_hold_arrays() -> None:
    frame = table_of("pandas-arrow", {"messages": [[{"role": "user", "content": "a"}]], "id": [1]})
    (row,) = frame.to_dict("records")
    assert isinstance(row["messages"], np.ndarray) and to_examples([row]) == [Example("a")]


@pytest.mark.parametrize(
    ("rows", "error", "says"),
    [
        ({"instruction": ["a"], "output": ["b", "c"]}, ValueError, "one length.*'output' 2"),
        ({"instruction": "a", "output": "b"}, TypeError, "sequence of rows, got one dict"),
        ({"messages": [{"role": "user", "content": "a"}]}, TypeError, "sequence of rows, got one dict"),
        ({"instruction": "a", "candidates": ["b"]}, TypeError, "sequence of rows, got one dict"),
        ({}, TypeError, "sequence of rows"),
        (17, TypeError, "got a int"),
        (None, TypeError, "got a NoneType"),
    ],
)
def test_what_is_no_table_is_named(rows: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        to_examples(rows)


def test_a_frame_with_a_column_twice_and_a_dataset_of_splits_are_named() -> None:
    import datasets
    import pandas

    with pytest.raises(ValueError, match="'output' 2 times"):
        to_examples(pandas.DataFrame([["a", "b", "c"]], columns=["instruction", "output", "output"]))
    parts = datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)})
    with pytest.raises(TypeError, match=r"got one DatasetDict with the splits \['train'\]"):
        to_examples(parts)


def test_tables_of_no_rows_have_their_columns() -> None:
    for kind in KINDS:
        if kind not in ("iterable", "arrow-batch"):
            names, batches = open_rows(table_of(kind, {"instruction": [], "output": []}))
            assert names == ["instruction", "output"] and sum(map(len, batches)) == 0, kind


def test_no_library_of_tables_is_imported_for_rows_that_are_none_of_its() -> None:
    program = (
        "import sys\nfrom instsel.records import to_examples\n"
        "to_examples([{'instruction': 'a', 'output': 'b'}]); to_examples({'instruction': ['a'], 'output': ['b']})\n"
        "print(sorted({'pandas', 'polars', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
