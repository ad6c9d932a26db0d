"""Files of rows: the same rows from every format, a batch at a time, and the line of whatever is wrong."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from instsel.records import to_examples
from instsel.records.files import iter_batches, read_rows

ROWS = [
    {"instruction": "Add 1 and 2.", "input": "", "output": "3"},
    {"instruction": 'Say "a, b"\nand 漢字 🙂.', "input": "x", "output": "a\tb\r\nc"},
    {"instruction": "", "input": "[]{}\\", "output": ""},
]


def as_csv(rows, delimiter=","):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows, **options):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()


def lines(rows, end="\n", **options):
    return end.join(json.dumps(row, **options) for row in rows).encode()


PARQUET = as_parquet(ROWS)
BOM = b"\xef\xbb\xbf"
FILES = {
    "lines.jsonl": lines(ROWS) + b"\n",
    "no-last-line-end.jsonl": lines(ROWS, ensure_ascii=False),
    "blank-lines.jsonl": b"\n \n" + lines(ROWS, "\n\n\n") + b"\n\n",
    "windows.jsonl": BOM + lines(ROWS, "\r\n") + b"\r\n",
    "lines.json": lines(ROWS),
    "lines-named.csv": lines(ROWS),
    "lines": lines(ROWS),
    "array.json": json.dumps(ROWS).encode(),
    "array.jsonl": json.dumps(ROWS, indent=2).encode() + b"\n",
    "array-with-bom.json": BOM + b" \r\n" + json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "wrapped.json": json.dumps({"version": 1, "tags": ["a"], "data": ROWS}).encode(),
    "wrapped-pretty.json": json.dumps({"data": ROWS, "info": {"a": []}}, indent=2).encode(),
    "rows.parquet": PARQUET,
    "rows.pq": as_parquet(ROWS, row_group_size=1),
    "parquet-named.json": PARQUET,
    "rows.csv": as_csv(ROWS),
    "rows-with-bom.CSV": BOM + as_csv(ROWS),
    "rows.tsv": as_csv(ROWS, "\t"),
    "lines.jsonl.gz": gzip.compress(lines(ROWS)),
    "lines-named-plain.jsonl": gzip.compress(lines(ROWS)),
    "two-members.jsonl.gz": gzip.compress(lines(ROWS[:1]) + b"\n") + gzip.compress(lines(ROWS[1:])),
    "array.json.gz": gzip.compress(json.dumps(ROWS, indent=2).encode()),
    "wrapped.json.gz": gzip.compress(json.dumps({"data": ROWS, "info": 1}, indent=2).encode()),
    "rows.csv.gz": gzip.compress(BOM + as_csv(ROWS)),
    "rows.tsv.zst": zstandard.compress(as_csv(ROWS, "\t")),
    "lines.jsonl.zst": zstandard.compress(lines(ROWS)),
    "two-frames.zst": zstandard.compress(lines(ROWS[:2]) + b"\n") + zstandard.compress(lines(ROWS[2:])),
    "lines.jsonl.bz2": bz2.compress(lines(ROWS)),
    "lines.jsonl.xz": lzma.compress(lines(ROWS)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    assert read_rows(path) == ROWS
    assert read_rows(str(path), limit=2) == ROWS[:2]
    batches = list(iter_batches(path, batch_rows=2))
    assert [len(batch) for batch in batches] in ([2, 1], [1, 1, 1])
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches) == (b"PAR1" in FILES[name])
    assert to_examples(batches[0])[0].response == "3"


def test_one_object_is_a_row_or_wraps_rows(tmp_path):
    path = tmp_path / "one.json"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for value, rows in (
        (ROWS[0], [ROWS[0]]),
        ({"messages": turns}, [{"messages": turns}]),  # a list of objects, but under a column's name
        ({"prompt": turns[:1], "completion": turns[1:]},) * 2,
        ({"train": turns}, turns),
    ):
        for text in (json.dumps(value), json.dumps(value, indent=1), json.dumps(value) + "\n"):
            path.write_text(text)
            assert read_rows(path) == ([rows] if isinstance(rows, dict) else rows)


def test_values_that_json_allows_in_python(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_text('{"output": NaN, "n": -Infinity, "big": 123456789012345678901234567890, "s": "\\ud800\\u0000"}')
    [row] = read_rows(path)
    assert math.isnan(row["output"]) and row["n"] == -math.inf
    assert row["big"] == 123456789012345678901234567890 and row["s"] == "\ud800\x00"


ROW = b'{"instruction": "a", "output": "b"}\n'
FAULTS = {
    "empty.json": (b"", "is empty"),
    "blank.json": (b" \n\n ", "holds no rows"),
    "no-rows.json": (b"[]", "holds no rows"),
    "no-rows-wrapped.json": (b'{"data": []}', "holds no rows"),
    "no-rows.csv": (b"instruction,output\n", "holds no rows"),
    "no-rows.parquet": (as_parquet(ROWS[:1]).replace(b"", b"")[:4], "not a whole Parquet file"),
    "text.json": (b"hello\n", "not JSON"),
    "text.unknown": (b"hello\n", "unknown format.*name a CSV file .csv"),
    "json-named.parquet": (ROW, "is not a Parquet file"),
    "cut.parquet": (PARQUET[: len(PARQUET) // 2], "not a whole Parquet file"),
    "damaged.parquet": (PARQUET[:4] + bytes(40) + PARQUET[44:], "not a whole Parquet file"),
    "damaged.jsonl.gz": (b"\x1f\x8b\x08" + bytes(20), "not a whole gzip file"),
    "cut.jsonl.gz": (gzip.compress(lines(ROWS) * 50)[:-30], "not a whole gzip file"),
    "wrong-sum.csv.gz": (gzip.compress(as_csv(ROWS))[:-8] + bytes(8), "not a whole gzip file"),
    "cut.jsonl.zst": (zstandard.compress(lines(ROWS) * 50)[:-9], "not a whole zstd file"),
    "cut.json.bz2": (bz2.compress(json.dumps(ROWS).encode())[:-9], "not a whole bzip2 file"),
    "cut.jsonl.xz": (lzma.compress(lines(ROWS))[:-9], "not a whole xz file"),
    "empty.jsonl.gz": (gzip.compress(b""), "is empty"),
    "no-rows.csv.gz": (gzip.compress(b"instruction,output\n"), "holds no rows"),
    "latin1.jsonl.gz": (gzip.compress(ROW + b'{"instruction": "caf\xe9"}\n'), "line 2: not UTF-8"),
    "text.gz": (gzip.compress(b"hello\n"), "unknown format"),
    "rows.parquet.gz": (gzip.compress(PARQUET), "Parquet file within gzip"),
    "zip-within.json.gz": (gzip.compress(b"PK\x03\x04" + bytes(20)), "zip archive"),
    "zip.json": (b"PK\x03\x04" + bytes(20), "zip archive"),
    "utf16.json": ("[{}]".encode("utf-16"), "UTF-16"),
    "latin1.jsonl": (ROW + ROW + b'{"instruction": "caf\xe9"}\n', "line 3: not UTF-8"),
    "latin1.json": (b'[\n{"instruction": "caf\xe9"}\n]', "line 2: not UTF-8"),
    "latin1.csv": (b"instruction,output\na,caf\xe9\n", "not UTF-8"),
    "cut.jsonl": (ROW + ROW + ROW[:18], "line 3, column 17: not JSON: Unterminated string.*truncated"),
    "cut-after-key.jsonl": (ROW + b'{"instruction": "a", "output', "line 2.*truncated"),
    "cut-array.json": (b"[\n" + ROW + b",\n" + ROW + b",\n" + ROW[:-9], "line 6: not JSON.*truncated"),
    "cut-after-row.json": (b"[\n" + ROW, "line 3: not JSON: the array does not end; the file is truncated"),
    "cut-after-comma.json": (b"[" + ROW + b",", "line 2: not JSON.*truncated"),
    "cut-object.json": (b'{\n "data": [\n' + ROW, "line 4.*truncated"),
    "fault.jsonl": (ROW + b"{'instruction': 'a'}\n" + ROW, "line 2, column 2: not JSON: Expecting property name"),
    "fault.json": (b"[" + ROW + b"," + ROW + b'{"a" 1}]', "line 3: not JSON: expected ',' or ']' after a row"),
    "fault-in-array.json": (b"[" + ROW + b"," + ROW + b',{"a" 1},' + ROW * 9, "line 3: not JSON: Expecting ':'"),
    "comma-at-end.json": (b"[" + ROW + b",]", "line 2: not JSON"),
    "text-after.json": (b"[" + ROW + b"]\nmore", "line 3: not JSON: text after the end"),
    "two-arrays.json": (b"[" + ROW + b"]\n[]", "line 3: not JSON: text after the end"),
    "two-objects.json": (b'{\n"a": 1}\n{\n"a": 1}', "line 3.*Extra data"),
    "array-row.jsonl": (ROW + b"[1]\n", "line 2: a row must be a JSON object, got an array"),
    "number-row.jsonl": (ROW + b"1\n", "line 2: a row must be a JSON object, got a number"),
    "text-row.json": (b'[\n"a"]', "line 2: a row must be a JSON object, got a string"),
    "null-row.json": (b"[null]", "line 1: a row must be a JSON object, got null"),
    "nested.json": (b"[[{}]]", "a row must be a JSON object, got an array"),
    "deep.jsonl": (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}\n", "line 1: nested more than 200 levels deep"),
    "deeper.jsonl": (ROW + b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n", "line 2: nested more than"),
    "deep.json": (b"[" + ROW + b',{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}]", "line 2: nested more than"),
    "deep-object.json": (b'{\n"a": ' + b'{"a": ' * 9_000 + b"1" + b"}" * 9_000 + b"}", "nested more than"),
    "only-brackets.json": (b"[" * 100_000, "nested more than|truncated"),
    "key-twice.jsonl": (ROW + b'{"output": "a", "output": "b"}\n', "line 2: an object has the key 'output' twice"),
    "key-twice.json": (b"[\n" + ROW + b',{"a": {"b": 1, "b": 2}}]', "line 3: an object has the key 'b' twice"),
    "long-number.jsonl": (ROW + b'{"id": ' + b"9" * 5_000 + b"}\n", "line 2: .*4300"),
    "control.jsonl": (b'{"a": "b\x01"}\n', "line 1, column 9: not JSON: Invalid control character"),
    "two-lists.json": (json.dumps({"train": ROWS, "test": ROWS}).encode(), "several lists of rows, 'train', 'test'"),
    "list-of-texts.json": (b'["a", "b"]', "line 1: a row must be a JSON object"),
    "ragged.csv": (b"instruction,output\na,b\na,b,c\n", "line 3: the row has 3 values, the header 2 columns"),
    "open-quote.csv": (b'instruction,output\na,"b\nc\n', "line 3: not CSV"),
    "column-twice.csv": (b"output,output\na,b\n", "has the column 'output' 2 times"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_on_one_line(tmp_path, name):
    content, message = FAULTS[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value) and len(str(error.value)) < 600


def test_parquet_faults(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["x", "x"]), path)
    with pytest.raises(ValueError, match="has the column 'x' 2 times"):
        read_rows(path)
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"output": text}), path)
    with pytest.raises(ValueError, match="UTF8"):
        read_rows(path)
    pq.write_table(pa.table({"output": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match="holds no rows"):
        read_rows(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_rows(tmp_path / "absent.json")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_rows(tmp_path)


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=3)


@settings(max_examples=100, deadline=None)
@pytest.mark.long
@given(
    st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
)
def test_array_in_pieces_of_any_size(tmp_path_factory, rows, chunk, indent):
    """Wherever the window ends within a row, the rows are those that the whole text holds."""
    path = tmp_path_factory.getbasetemp() / "array.json"  # a new folder for each would take most of the time
    path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instsel.records.json_rows.CHUNK", chunk)
        assert read_rows(path) == rows


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([name for name in FILES if "parquet" not in name and ".pq" not in name]),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), max_size=3),
    st.integers(1, 2000),
)
@example("lines.json", [(0, b"[")], 1000)
def test_damaged_text_files_are_read_or_refused(tmp_path_factory, name, edits, length):
    content = bytearray(FILES[name])
    for at, new in edits:
        content[at : at + 1] = new
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content[:length])
    try:
        assert all(isinstance(row, dict) for row in read_rows(path))
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)


@pytest.mark.parametrize("name, compress", [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_streams_one_after_another_are_all_read_or_named_as_damaged(tmp_path, name, compress):
    """As compressors on several cores write them; a stream whose first bytes are damaged is not the file's end."""
    path = tmp_path / f"rows.jsonl.{name}"
    rows = [{"instruction": f"say {i}", "output": "é" * (i % 7)} for i in range(60)]
    streams = [compress(lines(rows[i : i + 20]) + b"\n") for i in range(0, 60, 20)]
    for between in (b"", b"\0" * 8):
        path.write_bytes(between.join([*streams, compress(b""), b""]))
        assert read_rows(path) == rows
    for at in range(3):
        damaged = bytearray(streams[1])
        damaged[at] ^= 0xFF
        path.write_bytes(streams[0] + damaged + streams[2])
        with pytest.raises(ValueError, match=r"rows\.jsonl.* is not a whole"):
            read_rows(path)
    for end in (b"what is no stream", streams[0][:-1], streams[0][:5]):
        path.write_bytes(streams[0] + end)
        with pytest.raises(ValueError, match=r"rows\.jsonl.* is not a whole"):
            read_rows(path)
