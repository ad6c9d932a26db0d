"""Files of rows larger than a batch, and rows larger than anything: what is held of them."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_record_files import ROWS, as_csv, as_parquet, lines

from instsel.records.files import iter_batches, read_rows


@pytest.mark.long
def test_memory_is_that_of_a_batch(tmp_path):
    """8 MB of rows are never held; reading them into a list is (the negative control)."""
    row = {"instruction": "a" * 1000, "output": "b" * 1000}
    text = json.dumps(row)
    (tmp_path / "a.jsonl").write_text((text + "\n") * 4_000)
    (tmp_path / "a.json").write_text("[" + (text + ",\n") * 3_999 + text + "]")
    (tmp_path / "a.csv").write_text("instruction,output\n" + ("a" * 1000 + "," + "b" * 1000 + "\n") * 4_000)

    def peak(read):
        tracemalloc.start()
        count = read()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 4_000
        return used

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "a.json", "a.csv", "a.jsonl.gz"):
        assert peak(lambda: sum(len(batch) for batch in iter_batches(tmp_path / name))) < 10e6  # noqa: B023
    assert peak(lambda: len(read_rows(tmp_path / "a.jsonl"))) > 8e6


def test_parquet_is_not_read_ahead(tmp_path):
    """One row group of 8 MB that does not compress: Arrow holds a batch and a page of it."""
    digits = np.random.default_rng(0).integers(33, 127, (4_000, 2_000), dtype=np.uint8)
    table = pa.table({"output": [row.tobytes().decode() for row in digits]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10**6, use_dictionary=False, data_page_size=1 << 16)
    assert table.nbytes > 8e6
    before = pa.total_allocated_bytes()
    extra = [pa.total_allocated_bytes() - before for _ in iter_batches(tmp_path / "a.parquet", batch_rows=128)]
    assert len(extra) == 32 and max(extra) < 4e6


def test_one_long_answer(tmp_path):
    """An answer of 3 MB, longer than the window and than csv's own limit, ends its batch."""
    rows = [{"instruction": "a", "output": "漢\n" * 1_500_000}, *ROWS[:1]]
    for name, content in (
        ("a.jsonl", lines(rows)),
        ("a.json", json.dumps(rows).encode()),
        ("a.parquet", as_parquet(rows)),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_rows(tmp_path / name)[0]["output"] == rows[0]["output"]
    (tmp_path / "a.csv").write_bytes(as_csv([rows[0], {"instruction": "b", "output": "c"}]))
    assert read_rows(tmp_path / "a.csv")[0]["output"] == rows[0]["output"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instsel.records.files.BATCH_BYTES", 1 << 20)
        assert [len(batch) for batch in iter_batches(tmp_path / "a.jsonl")] == [1, 1]


@pytest.mark.slow
def test_a_line_of_a_hundred_megabytes(tmp_path):
    row = {"instruction": "a", "output": "answer " * 15_000_000}
    for name, content in (("a.jsonl", lines([row, row])), ("a.json", json.dumps([row, row]).encode())):
        (tmp_path / name).write_bytes(content)
        assert [batch[0]["output"] == row["output"] for batch in iter_batches(tmp_path / name)] == [True, True]
