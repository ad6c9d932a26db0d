"""Rows come back from every file of ours as they went in, whatever their columns hold: as JSON text where need be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instsel.records import open_rows
from instsel.records.files import read_rows
from instsel.records.json_columns import is_json, json_array, json_field, whole_rows
from instsel.runs.column_types import ColumnTypes
from instsel.runs.merged_output import write_merged, write_table
from instsel.runs.row_store import RowStore, write_rows
from instsel.runs.scored_files import ScoredFile

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
LEAF = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(0, 2) | st.floats() | TEXT
VALUE = st.recursive(
    LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from("xyz"), x, max_size=3), max_leaves=8
)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "é\u202e", ""]), VALUE, max_size=4), min_size=1, max_size=10)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NESTED = [
    {"tools": [{"name": "add", "arguments": {"a": 1}}], "id": 1},
    {"tools": [{"name": "find", "arguments": {"text": "x", "limit": None}}], "id": 2},
    {"tools": None, "id": 3},
    {"id": 4},
    {"tools": [], "id": 5},
]


def exact(rows: Any) -> str:
    """Rows as text in which 1, 1.0 and true differ, and the order of keys counts; NaN is as NaN."""
    return json.dumps(rows)


def in_order_of(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names if name in row} for row in rows]


def passed_through(folder: Path, rows: list[dict[str, Any]], size: int, ending: str) -> list[dict[str, Any]]:
    """The rows after a run's merged file and a selection of all of it as JSON lines; without the added columns."""
    with open(folder / "rows.arrow", "wb") as file:
        _, columns = write_rows(file, [rows[i : i + size] for i in range(0, len(rows), size)])
    scores = pa.table({"the score": np.arange(len(rows), dtype=float)})
    write_merged(folder, f"scores.{ending}", RowStore(folder / "rows.arrow"), lambda: [scores], columns=columns)
    write_table(folder, "selected.jsonl", ScoredFile(folder / f"scores.{ending}").take(np.arange(len(rows))), {})
    found = [json.loads(line) for line in (folder / "selected.jsonl").read_text().split("\n")[:-1]]
    assert [row.pop("the score") for row in found] == list(range(len(rows)))
    return found


@pytest.mark.long
@QUICK
@given(rows=ROWS, size=st.integers(1, 4), ending=st.sampled_from(["parquet", "jsonl"]))
def test_any_rows_come_back_as_they_were(rows: list[dict[str, Any]], size: int, ending: str, tmp_path: Path) -> None:
    found = passed_through(tmp_path, rows, size, ending)
    for row, want in zip(found, rows, strict=True):
        for name, value in row.items():  # a column of integers and other numbers is one of float64, which is exact
            if isinstance(value, float) and isinstance(want.get(name), int) and not isinstance(want[name], bool):
                row[name] = int(value)
    names = list(dict.fromkeys(name for row in rows for name in row))
    assert exact(in_order_of(found, names)) == exact(in_order_of(rows, names))


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_unlike_keys_are_kept_apart(ending: str, size: int, tmp_path: Path) -> None:
    assert exact(passed_through(tmp_path, NESTED, size, ending)) == exact(in_order_of(NESTED, ["tools", "id"]))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([{"a": 1}, {"a": 2}], pa.struct({"a": pa.int64()})),
        ([{"a": 1}, {"a": None}], pa.struct({"a": pa.int64()})),
        ([{"a": 1}, {}], None),
        ([{"a": 1}, {"b": 1}], None),
        ([{"a": 1, "b": 2}, {"b": 1, "a": 2}], None),  # the order is part of an object
        ([{"a": 1}, {"a": 1.0}], None),
        ([{"a": 1}, {"a": True}], None),
        ([1, True], None),
        ([[], [{"a": 1}]], pa.list_(pa.struct({"a": pa.int64()}))),
        ([None, [None], [["x"]]], pa.list_(pa.list_(pa.string()))),
        ([[1], [[1]]], None),
        ([[{}]], None),
    ],
    ids=str,
)
@pytest.mark.parametrize("together", [True, False])
def test_a_type_is_that_of_all_rows_however_they_are_batched(
    values: list[Any], kind: pa.DataType | None, together: bool
) -> None:
    rows = [{"x": value} for value in values]
    types = ColumnTypes([rows] if together else [[row] for row in rows])
    field = types.schema.field("x")
    assert is_json(field) if kind is None else field.type == kind
    assert exact(whole_rows(types.table(rows))) == exact(rows)


def test_whole_numbers_stay_whole_in_columns_of_prompts_and_answers() -> None:
    rows = [{"output": 6, "said": 6, "x": 6}, {"output": 6.5, "said": 6.5, "x": 6.5}]
    for batches in ([rows], [[row] for row in rows]):
        types = ColumnTypes(batches, texts=["said"])
        assert is_json(types.schema.field("output")) and is_json(types.schema.field("said"))
        assert types.schema.field("x").type == pa.float64(), "of which many are sorted and added"
        assert exact(whole_rows(types.table(rows))) == exact([{**row, "x": float(row["x"])} for row in rows])


def test_missing_keys_and_nulls_are_told_apart() -> None:
    rows = [{"never": 1, "all": None}, {"mixed": "x"}, {"mixed": None}, {"only_missing": "y", "all": None}, {}]
    types = ColumnTypes([rows[:2], rows[2:]])
    assert whole_rows(types.table(rows)) == rows
    assert types.schema.field("only_missing").type == pa.string() and is_json(types.schema.field("mixed"))


def test_a_result_is_read_again_as_it_was(tmp_path: Path) -> None:
    """By instsel as a file, as a table and as the input of another run, and by the libraries that people use."""
    types = ColumnTypes([NESTED])
    table = types.table(NESTED)
    pq.write_table(table, tmp_path / "one.parquet")
    want = in_order_of(NESTED, ["tools", "id"])
    assert read_rows(tmp_path / "one.parquet") == want
    assert [row for batch in open_rows(table)[1] for row in batch] == want
    with open(tmp_path / "rows.arrow", "wb") as file:
        write_rows(file, pq.ParquetFile(tmp_path / "one.parquet").iter_batches())
    store = RowStore(tmp_path / "rows.arrow")
    assert store.rows(0, 9) == want and store.take([3, 0]) == [want[3], want[0]]
    write_merged(tmp_path, "two.parquet", store, lambda: [pa.table({"s": np.zeros(5)})], columns=["tools", "id"])
    assert [{k: v for k, v in row.items() if k != "s"} for row in read_rows(tmp_path / "two.parquet")] == want
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    texts = [json.dumps(NESTED[0]["tools"]), json.dumps(NESTED[1]["tools"]), "null", None, "[]"]
    assert pandas.read_parquet(tmp_path / "one.parquet")["tools"].tolist() == texts
    frame = polars.read_parquet(tmp_path / "one.parquet")
    assert frame["tools"].to_list() == texts
    read = [row for batch in open_rows(frame)[1] for row in batch]
    assert read == [*want[:3], {**want[3], "tools": None}, want[4]]  # polars knows of no missing keys


def test_columns_of_json_text_are_numbers_labels_and_values_again(tmp_path: Path) -> None:
    rows = [{"n": 1, "label": "a", "x": {"k": 1}}, {"n": None, "label": "a", "x": {}}, {"label": None}]
    pq.write_table(ColumnTypes([rows]).table(rows), tmp_path / "rows.parquet")
    scored = ScoredFile(tmp_path / "rows.parquet")
    np.testing.assert_array_equal(scored.numbers("n"), [1, np.nan, np.nan])
    assert scored.values("x") == [{"k": 1}, {}, None]
    assert scored.labels("label")[1] == ["a", "none"]
    with pytest.raises(ValueError, match="holds struct"):
        scored.labels("x")
    with pytest.raises(ValueError, match="not numbers"):
        scored.numbers("label")


def test_json_text_is_read_however_deep_it_lies() -> None:
    kind = pa.struct([json_field("j"), pa.field("n", pa.int8())])
    text = json_array([{"b": [1.5]}, ..., None])
    array = pa.StructArray.from_arrays([text, pa.array([1, 2, 3], pa.int8())], fields=list(kind))
    found = whole_rows(pa.table({"s": array, "l": pa.ListArray.from_arrays([0, 2, 2, 3], text)}))
    assert found == [
        {"s": {"j": {"b": [1.5]}, "n": 1}, "l": [{"b": [1.5]}, None]},
        {"s": {"j": None, "n": 2}, "l": []},
        {"s": {"j": None, "n": 3}, "l": [None]},
    ]


def test_text_that_is_not_json_stays_text() -> None:
    for text in ("{", '{"a": 1, "a": 2}', "[" * 100_000):
        array = json_array([1]).type.wrap_array(pa.array([text]))
        assert whole_rows(pa.table({"x": array})) == [{"x": text}]
