"""The rows on the disk are the rows that came, and a Parquet column holds each value exactly or as its JSON text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instsel.records.json_columns import JSON_TEXT, empty_table, is_json, take_rows
from instsel.records.score_columns import from_table, to_table
from instsel.runs.column_types import ColumnTypeError, ColumnTypes
from instsel.runs.row_store import BATCH_ROWS, RowStore, write_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAF = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT
VALUE = st.recursive(LEAF, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXT, x, max_size=3), max_leaves=6)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "é\u202e", ""]), VALUE, max_size=3), max_size=12)
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(path: Path, batches: Any) -> RowStore:
    with open(path, "wb") as file:
        write_rows(file, batches)
    return RowStore(path)


def same(one: Any, other: Any) -> bool:
    """Equal with types, NaN equal to itself."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.long
@QUICK
@given(rows=ROWS, size=st.integers(1, 5), random=st.randoms(use_true_random=False))
def test_json_rows_come_back_as_they_were(rows: list[dict[str, Any]], size: int, random: Any, tmp_path: Path) -> None:
    store = stored(tmp_path / "rows.arrow", [rows[i : i + size] for i in range(0, len(rows), size)])
    assert len(store) == len(rows) and same(store.rows(0, len(rows)), rows)
    if rows:
        numbers = [random.randrange(len(rows)) for _ in range(6)]
        assert same(store.take(numbers), [rows[i] for i in numbers])
        low = random.randrange(len(rows))
        assert same(store.rows(low, low + 3), rows[low : low + 3])


@QUICK
@given(rows=st.lists(st.dictionaries(st.sampled_from("ab"), LEAF), max_size=12), size=st.integers(1, 4))
def test_a_column_holds_each_value_exactly_or_all_as_json_text(rows: list[dict[str, Any]], size: int) -> None:
    batches = [rows[i : i + size] for i in range(0, len(rows), size)]
    types = ColumnTypes(batches)
    table = pa.concat_tables([types.table([]), *(types.table(batch) for batch in batches)])
    for name in table.column_names:
        want = [row.get(name) for row in rows]
        got = table.column(name).to_pylist()
        if is_json(table.schema.field(name)):
            got = [None if text is None else json.loads(text) for text in got]
        assert all(g == w or (g != g and w != w) for g, w in zip(got, want, strict=True)), (got, want)


def test_rows_across_many_batches_are_found_by_number(tmp_path: Path) -> None:
    count = 5 * BATCH_ROWS + 17
    store = stored(tmp_path / "rows.arrow", ([{"id": i}] for i in range(count)))
    assert [row["id"] for row in store.take([count - 1, 0, BATCH_ROWS, BATCH_ROWS - 1])] == [
        count - 1, 0, BATCH_ROWS, BATCH_ROWS - 1,
    ]  # fmt: skip
    around = range(BATCH_ROWS - 2, BATCH_ROWS + 2)
    assert [row["id"] for row in store.rows(around.start, around.stop)] == list(around)
    for wrong in (-1, count):
        with pytest.raises(IndexError):
            store.take([wrong])


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    store = stored(tmp_path / "rows.arrow", [[{"text": "a\ud800b\udfff", "\udc00": 1}]])
    assert store.rows(0, 1) == [{"text": "a\ufffdb\ufffd", "\ufffd": 1}]


def test_arrow_rows_keep_their_types(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([1, None], pa.int8()), "kind": pa.array(["a", "b"]).dictionary_encode()})
    store = stored(tmp_path / "rows.arrow", [*table.to_batches(), *table.slice(1).to_batches()])
    assert not store.holds_json and store.rows(0, 9) == [*table.to_pylist(), {"x": None, "kind": "b"}]
    assert store.table(0, 3, None).schema == pa.schema({"x": pa.int8(), "kind": pa.string()})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5], pa.float64()),
        ([2**53 + 1, 0.5], None),  # float64 would round it
        ([2**70], None),
        ([{}], None),  # Parquet has no struct without fields
        ([True, 1], None),
        (["a", 1], None),
        ([None, "a"], pa.string()),
        ([[1], [2.5]], None),
    ],
    ids=str,
)
def test_types_of_columns_one_row_a_batch(values: list[Any], kind: pa.DataType | None) -> None:
    types = ColumnTypes([{"x": value}] for value in values)
    assert types.schema.field("x").type == (kind or JSON_TEXT)
    if kind is None:
        assert [types.table([{"x": v}]).to_pylist()[0]["x"] for v in values] == [json.dumps(v) for v in values]


def test_a_type_that_nothing_led_to_expect_is_an_error_that_names_the_column() -> None:
    types = ColumnTypes([[{"x": 1}]])
    with pytest.raises(ColumnTypeError, match="x"):
        types.table([{"x": "one"}])
    types.keep_as_text("x")
    assert types.table([{"x": "one"}]).to_pylist() == [{"x": '"one"'}]


def test_scores_go_to_arrow_and_back_and_nan_is_null() -> None:
    columns = {
        "score": np.array([1.5, np.nan]),
        "pairs": np.array([[0.25, np.nan], [np.nan, 4.0]], np.float32),
        "probes": np.array([[1, -1], [0, 1]]),
        "status": np.array(["ok", "too_long"]),
        "cut": np.array([True, False]),
    }
    table = to_table({**columns, "scores": [np.array([1.0, np.nan]), np.array([])]})
    assert table.to_pylist()[1] == {
        "score": None, "pairs": [None, 4.0], "probes": [0, 1], "status": "too_long", "cut": False, "scores": [],
    }  # fmt: skip
    back = from_table(table)
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype.kind == values.dtype.kind
    np.testing.assert_array_equal(back["scores"][0], [1.0, np.nan])


DICTIONARY = pa.dictionary(pa.int8(), pa.string())
TEXTS = [["a", "b"], ["c", None]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.list_(DICTIONARY), lambda text: [text]),
        (pa.large_list(DICTIONARY), lambda text: [text, text]),
        (pa.list_(DICTIONARY, 1), lambda text: [text]),
        (pa.list_(pa.struct([("role", DICTIONARY), ("n", pa.int8())])), lambda text: [{"role": text, "n": 1}]),
        (pa.map_(pa.string(), DICTIONARY), lambda text: [("key", text)]),
        (pa.string_view(), lambda text: text),
        (pa.binary_view(), lambda text: None if text is None else text.encode()),
    ],
    ids=lambda x: str(x) if isinstance(x, pa.DataType) else "",
)
def test_dictionaries_within_lists_and_views_of_texts_are_rows_as_any_other(
    tmp_path: Path, kind: pa.DataType, value: Any
) -> None:
    """Every batch brings a dictionary of its own, and of what is stored rows may be taken."""
    whole = [[value(text) for text in texts] for texts in TEXTS]
    tables = [pa.table({"x": pa.array(values, kind)}) for values in whole]
    store = stored(tmp_path / "rows.arrow", tables)
    expected = [row for values in whole for row in values]
    assert [row["x"] for row in store.rows(0, 4)] == expected
    table = store.table(0, 4, None)
    for source in (table, tables[1]):
        held = source.column("x").to_pylist()
        taken = take_rows(source, pa.array([1, 0, 1]))
        assert taken.column("x").to_pylist() == [held[1], held[0], held[1]] and taken.schema == source.schema
        assert empty_table(source.schema).schema == source.schema
