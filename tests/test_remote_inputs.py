"""Inputs behind addresses: the rows and the digests of the same files on the disk."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder

from instsel.cli import main
from instsel.runs.inputs import open_input

ROWS = [{"instruction": f"say the thing {i}", "output": f"the {i}"} for i in range(40)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def rows_of(*names: str, limit: int | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in open_input(names, limit).read():
        rows += batch if isinstance(batch, list) else batch.to_pylist()  # type: ignore[union-attr]
    return rows


def test_a_file_a_folder_and_a_glob_are_their_rows_in_order(store: Any, tmp_path: Path) -> None:
    store.pipe("/pool/b.jsonl.gz", gzip.compress(lines(ROWS[10:20])))
    store.pipe("/pool/a.jsonl", lines(ROWS[:10]))
    store.pipe(
        "/pool/c.csv", b"instruction,output\n" + b"".join(b"say the thing %d,the %d\n" % (i, i) for i in (20, 21))
    )
    store.pipe("/pool/notes.txt", b"not rows")
    assert rows_of("memory://pool/a.jsonl") == ROWS[:10]
    assert rows_of("memory://pool/*.jsonl*") == ROWS[:20]
    assert rows_of("memory://pool/*.jsonl*", limit=13) == ROWS[:13]
    assert rows_of("memory://pool/b.jsonl.gz", "memory://pool/a.jsonl") == ROWS[10:20] + ROWS[:10]
    assert rows_of("memory://pool/c.csv") == ROWS[20:22]
    store.rm("/pool/c.csv")
    assert rows_of("memory://pool/") == ROWS[:20]
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[:10]))
    assert rows_of(f"file://{tmp_path}/a.jsonl", "memory://pool/b.jsonl.gz") == ROWS[:20]
    assert open_input(str(tmp_path / "a.jsonl"), None).digest == open_input("memory://pool/a.jsonl", None).digest
    assert open_input("memory://pool/a.jsonl", None).name == "memory:///pool/a.jsonl"


def test_parquet_files_behind_addresses_are_joined_as_local_ones(store: Any) -> None:
    store.pipe("/pool/a.parquet", parquet(ROWS[:10]))
    store.pipe(
        "/pool/b.parquet", parquet([{"output": row["output"], "instruction": row["instruction"]} for row in ROWS[10:]])
    )
    assert rows_of("memory://pool/*.parquet") == ROWS
    store.pipe("/pool/c.parquet", parquet([{"other": 1}]))
    with pytest.raises(ValueError, match=r"memory:///pool/a\.parquet and memory:///pool/c\.parquet differ"):
        rows_of("memory://pool/*.parquet")
    store.pipe("/pool/d.parquet", b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"memory:///pool/d\.parquet is not a whole Parquet file"):
        rows_of("memory://pool/d.parquet")


def test_what_is_no_input_is_said_in_one_line(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/pool/a.jsonl", lines(ROWS))
    for address, said in (
        ("memory://pool/none.jsonl", "input memory://pool/none.jsonl does not exist"),
        ("memory://pool/*.csv", "input memory://pool/*.csv matches no file"),
        ("nosuchstore://a/b.jsonl", "input nosuchstore://a/b.jsonl cannot be read: Protocol not known: nosuchstore"),
    ):
        with pytest.raises(ValueError) as raised:
            open_input(address, None)
        assert str(raised.value).startswith(said) and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"named twice"):
        open_input(["memory://pool/a.jsonl", "memory://pool/*.jsonl"], None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"input s3://bucket/a\.jsonl cannot be read: Install s3fs to access S3"):
        open_input("s3://bucket/a.jsonl", None)


def test_a_run_over_an_address_is_the_run_over_the_file(store: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    store.pipe("/pool/a.jsonl", lines(ROWS))
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    for name, given in (("near", str(tmp_path / "a.jsonl")), ("far", "memory://pool/a.jsonl")):
        assert main(["ifd", given, *model, "--output", str(tmp_path / name)]) == 0
    tables = [pq.read_table(tmp_path / name / "scores.parquet") for name in ("near", "far")]
    assert tables[0].equals(tables[1])
    manifest = json.loads((tmp_path / "far/manifest.json").read_text())
    assert manifest["input"] == "memory:///pool/a.jsonl"
    assert main(["ifd", str(tmp_path / "a.jsonl"), *model, "--output", str(tmp_path / "far")]) == 0, "the same content"


def test_a_selection_behind_an_address_is_refused_with_what_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", "a.parquet", "--budget", "3", "--output", "s3://bucket/selection"]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "--output: s3://bucket/selection is no folder" in said and "write to a folder here" in said
