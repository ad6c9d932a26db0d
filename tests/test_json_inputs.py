"""Parquet inputs that hold JSON text, or objects of unlike keys from one file to the next."""

from __future__ import annotations

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder

from instsel.cli import main
from instsel.records import to_examples
from instsel.records.json_columns import is_json
from instsel.runs.inputs import open_input
from instsel.runs.row_store import RowStore, write_rows

TURNS = [
    [{"role": "user", "content": "say"}, {"role": "assistant", "content": "the thing", "weight": 1}],
    [{"role": "user", "content": "more"}, {"role": "assistant", "tool_calls": [{"name": "f"}], "content": "a king"}],
    [{"role": "user", "content": "no"}, {"role": "assistant", "content": "the"}],
]
TOOLS: list[Any] = [[{"name": "f", "parameters": {"a": {"type": "int"}}}], [{"name": "g", "parameters": {}}], None]


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("turns_are", ["lists of Json", "Json"])
def test_columns_of_the_json_feature_are_read_scored_and_written_whole(turns_are: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", minversion="4.7")
    kind = datasets.List(datasets.Json()) if turns_are == "lists of Json" else datasets.Json()
    features = datasets.Features({"messages": kind, "tools": datasets.Json(), "id": datasets.Value("int8")})
    columns = {"messages": TURNS, "tools": TOOLS, "id": [1, 2, 3]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    dataset.to_parquet(tmp_path / "pool.parquet")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    assert [one.response for one in to_examples(dataset)] == [
        "the thing",
        'a king\n{"name": "f", "arguments": {}}',
        "the",
    ]
    command = ["perplexity", str(tmp_path / "pool.parquet"), "--model", tiny_model_folder(), "--quiet", "--output"]
    for ending in ("parquet", "jsonl"):
        folder = tmp_path / ending
        assert main([*command, str(folder), "--format", ending]) == 0
        chosen = ["select", str(folder), "--budget", "3", "--max-similarity", "1", "--format", "jsonl", "--quiet"]
        assert main([*chosen, "--output", str(tmp_path / f"chosen-{ending}")]) == 0
        found = sorted(json_lines(tmp_path / f"chosen-{ending}" / "selected.jsonl"), key=lambda row: row["id"])
        assert json.dumps([{name: row[name] for name in columns} for row in found]) == json.dumps(rows)
    schema = pq.read_schema(tmp_path / "parquet" / "scores.parquet")
    assert schema.field("id").type == pa.int8() and is_json(schema.field("tools"))
    assert json_lines(tmp_path / "jsonl" / "scores.jsonl")[0]["tools"] == TOOLS[0]
    again = datasets.load_dataset("parquet", data_files=str(tmp_path / "parquet" / "scores.parquet"), split="train",
                                  cache_dir=str(tmp_path / "cache"))  # fmt: skip
    assert again["messages"][:] == TURNS and again["tools"][:] == TOOLS


def test_files_whose_objects_have_unlike_keys_do_not_gain_each_others(tmp_path: Path) -> None:
    values: list[list[Any]] = [
        [{"a": 1, "when": datetime.date(2026, 1, 2)}, None], [{"b": decimal.Decimal("1.5"), "c": b"\x00"}],
    ]  # fmt: skip
    for number, column in enumerate(values):
        same = [[{"k": 1}]] * len(column)
        pq.write_table(pa.table({"x": column, "same": same}), tmp_path / f"{number}.parquet")
    with open(tmp_path / "rows.arrow", "wb") as file:
        write_rows(file, open_input([str(tmp_path / f"{n}.parquet") for n in (0, 1)], None).read())
    store = RowStore(tmp_path / "rows.arrow")
    assert [row["x"] for row in store.rows(0, 3)] == [{"a": 1, "when": "2026-01-02"}, None, {"b": "1.5", "c": "AA=="}]
    assert store.schema(None).field("same").type == pa.list_(pa.struct({"k": pa.int64()}))


def test_typed_columns_of_a_parquet_file_keep_their_types(tmp_path: Path) -> None:
    table = pa.table({
        "day": pa.array([datetime.date(2026, 1, 2)]), "bytes": pa.array([b"\xff"], pa.large_binary()),
        "price": pa.array([decimal.Decimal("1.50")]), "deep": pa.array([[[]]], pa.list_(pa.list_(pa.int16()))),
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), "struct": [{"a": 1, "b": None}],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "pool.parquet")
    with open(tmp_path / "rows.arrow", "wb") as file:
        write_rows(file, open_input(str(tmp_path / "pool.parquet"), None).read())
    assert RowStore(tmp_path / "rows.arrow").table(0, 1, None).cast(table.schema).equals(table)
