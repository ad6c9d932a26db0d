"""Inputs of a command: shards, globs, pipes and hub datasets are the rows of one file, in a defined order."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from tiny_model import load_models_once, tiny_model_folder

from instsel.cli import main
from instsel.runs.inputs import open_input

ROWS = [{"instruction": f"say the thing {i}", "input": "in " * (i % 3), "output": f"the {i}"} for i in range(60)]


def text(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def rows_of(names: Any, limit: int | None = None, split: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in open_input([str(name) for name in names], limit, split).read():
        rows += batch if isinstance(batch, list) else batch.to_pylist()  # type: ignore[union-attr]
    return rows


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Six shards, each compressed in another way, that sort by name as their rows do."""
    folder = tmp_path / "shards"
    folder.mkdir()
    packed: list[tuple[str, Callable[[bytes], bytes]]] = [
        ("jsonl", bytes), ("jsonl.gz", gzip.compress), ("jsonl.zst", zstandard.compress), ("json.bz2", bz2.compress),
        ("jsonl", bytes), ("json.gz", gzip.compress),
    ]  # fmt: skip
    for i, (suffix, compress) in enumerate(packed):
        (folder / f"part-{i:02}.{suffix}").write_bytes(compress(text(ROWS[10 * i : 10 * i + 10])))
    return folder


def test_a_folder_a_glob_and_a_list_of_shards_are_their_rows_in_order(shards: Path) -> None:
    files = sorted(shards.iterdir())
    for names in ([shards], [shards / "part-*"], [shards / "**"], files):
        assert rows_of(names) == ROWS
        assert rows_of(names, limit=37) == ROWS[:37]
        assert rows_of(names, limit=20) == ROWS[:20]
    assert rows_of([*files[3:], *files[:3]]) == ROWS[30:] + ROWS[:30], "several names are read in the order given"


def test_the_digest_is_of_content_and_order_and_not_of_names(shards: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted(shards.iterdir())]
    digest = open_input(files, None).digest
    assert digest == open_input([str(shards)], None).digest == open_input([f"{shards}/*"], None).digest
    assert digest != open_input([*files[1:], files[0]], None).digest
    (shards / "part-00.jsonl").rename(shards / "aaa.jsonl")
    assert open_input([str(shards)], None).digest == digest
    (shards / "aaa.jsonl").write_bytes(text(ROWS[1:11]))
    assert open_input([str(shards)], None).digest != digest
    one = tmp_path / "one"
    one.mkdir()
    (one / "a.jsonl").write_bytes(text(ROWS))
    assert open_input([str(one)], None).digest == open_input(str(one / "a.jsonl"), None).digest


def test_parquet_shards_may_differ_in_the_order_of_columns_and_in_widths(tmp_path: Path) -> None:
    one = pa.table({"instruction": ["a"], "output": ["b"], "id": pa.array([1], pa.int32())})
    two = pa.table({"id": pa.array([2**40]), "output": pa.array(["d"], pa.large_string()), "instruction": ["c"]})
    three = pa.table({"instruction": pa.array(["e"]).dictionary_encode(), "output": [None], "id": [3]})
    for name, table in (("a", one), ("b", two), ("c", three)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert rows_of([tmp_path]) == [
        {"instruction": "a", "output": "b", "id": 1},
        {"instruction": "c", "output": "d", "id": 2**40},
        {"instruction": "e", "output": None, "id": 3},
    ]


def write(path: Path, content: bytes | pa.Table) -> Path:
    pq.write_table(content, path) if isinstance(content, pa.Table) else path.write_bytes(content)
    return path


ARROW = pa.table({"instruction": ["a"], "output": ["b"]})
OTHER = b'{"prompt": "a", "completion": "b"}\n'


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (("a.jsonl", text(ROWS)), ("b.jsonl", OTHER), "a.jsonl and .*b.jsonl differ: .*'instruction'.*'completion'"),
        (("a.jsonl", text(ROWS)), ("b.json", b'[{"instruction": "a", "response": "b"}]'), "a.jsonl.*b.json differ"),
        (("a.jsonl", b'{"q": "a"}\n'), ("b.jsonl", b'{"q": "a", "r": "b"}\n'), "a.jsonl.*b.jsonl differ.*'r'"),
        (("a.csv", b"instruction,output\na,b\n"), ("b.csv.gz", gzip.compress(b"instruction,id\na,b")), "differ.*'id'"),
        (("a.jsonl", text(ROWS)), ("b.csv", b"instruction,output\na,b\n"), "a.jsonl is JSON, .*b.csv is CSV"),
        (("a.jsonl", text(ROWS)), ("b.parquet", ARROW), "a.jsonl is JSON, .*b.parquet is Parquet"),
        (("a.parquet", ARROW), ("b.parquet", ARROW.append_column("id", pa.array([1]))), "a.parquet.*b.parquet.*'id'"),
        (("a.parquet", ARROW), ("b.parquet", pa.table({"instruction": [1], "output": ["b"]})), "differ in type"),
        (("a.jsonl", text(ROWS)), ("b.jsonl", b""), "b.jsonl is empty"),
        (("a.jsonl", text(ROWS)), ("b.json", b"[]"), "b.json holds no rows"),
        (("a.jsonl", text(ROWS)), ("b.jsonl.gz", gzip.compress(text(ROWS))[:-20]), "b.jsonl.gz is not a whole gzip"),
    ],
)  # fmt: skip
def test_shards_that_do_not_fit_are_both_named_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], first: Any, second: Any, says: str
) -> None:
    for name, content in (first, second):
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=says):
        rows_of([tmp_path])
    command = ["ifd", str(tmp_path), "--model", tiny_model_folder(), "--output", str(tmp_path / "run/here")]
    assert main(command) == 2
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("instsel: error: "), said.err
    assert not (tmp_path / "run/here").exists()


def test_json_shards_may_lack_what_need_not_be_there(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", b'{"instruction": "a", "input": "i", "output": "b", "id": 1}\n')
    write(tmp_path / "b.jsonl", b'{"output": "d", "instruction": "c", "source": "web"}\n')
    assert [row["instruction"] for row in rows_of([tmp_path])] == ["a", "c"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{tmp}/none*.jsonl", "matches no file"),
        ("{tmp}/empty", "is a folder without a JSON, JSONL, Parquet or CSV file"),
        ("{tmp}/nested", r"folders \(data\) give a glob"),
        ("{tmp}/run", "is a run folder"),
        ("{tmp}/absent.jsonl", "does not exist"),
        ("{tmp}/absent", "does not exist"),
        ("absent", "does not exist"),
        ("/dev/null", "not a regular file"),
    ],
)
def test_names_of_nothing_are_one_line(tmp_path: Path, name: str, says: str) -> None:
    for folder in ("empty", "nested/data", "run"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "nested/data/a.jsonl", text(ROWS))
    (tmp_path / "run/manifest.json").write_text('{"format": 1, "method": "ifd", "compared": ["format"]}')
    with pytest.raises(ValueError, match=says):
        open_input([name.format(tmp=tmp_path)], None)


def test_a_file_named_twice_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", text(ROWS))
    for names in ([path, path], [path, tmp_path], [path, tmp_path / "*"]):
        with pytest.raises(ValueError, match=r"a\.jsonl is named twice"):
            open_input([str(name) for name in names], None)
    with pytest.raises(ValueError, match="--split is for datasets of the hub"):
        open_input([str(path)], None, "test")


def test_a_file_by_two_names_is_an_error(tmp_path: Path) -> None:
    """As where a folder has a link `latest.jsonl` to the newest of its files: each of its rows would count twice."""
    path = write(tmp_path / "a.jsonl", text(ROWS))
    (tmp_path / "latest.jsonl").symlink_to("a.jsonl")
    for names in ([path, tmp_path / "latest.jsonl"], [tmp_path], [tmp_path / "*"]):
        with pytest.raises(ValueError, match=r"latest\.jsonl is .*a\.jsonl by another name"):
            open_input([str(name) for name in names], None)
    assert len(list(open_input(str(tmp_path / "latest.jsonl"), None).files)) == 1


def test_an_empty_name_is_not_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl", text(ROWS))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="input: expected a file, a folder or a dataset's name"):
        open_input([""], None)


def test_files_of_a_folder_that_are_left_out_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", text(ROWS))
    for name in ("README.md", ".hidden.jsonl", "_SUCCESS"):
        write(tmp_path / name, b"x")
    with pytest.warns(UserWarning, match="left out .*: README.md$"):
        assert rows_of([tmp_path]) == ROWS


class Piped:
    """Standard input that is a pipe with these bytes in it."""

    closed = False

    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        return False


def as_csv(rows: list[dict[str, str]], between: str) -> bytes:
    return "\n".join(between.join(row) for row in [rows[0].keys(), *(row.values() for row in rows)]).encode()


@pytest.mark.parametrize("kind", ["jsonl", "array", "gz", "csv", "tsv", "parquet"])
def test_standard_input_is_read_as_what_it_holds(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    content = {
        "jsonl": text(ROWS), "array": json.dumps(ROWS).encode(), "gz": gzip.compress(text(ROWS)),
        "csv": as_csv(ROWS, ","), "tsv": as_csv(ROWS, "\t"), "parquet": sink.getvalue(),
    }[kind]  # fmt: skip
    monkeypatch.setattr(sys, "stdin", Piped(content))
    assert rows_of(["-"]) == ROWS


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "standard input is empty"),
        (text(ROWS) + b'{"instruction": "a"', "standard input, line 61.*truncated"),
        (gzip.compress(text(ROWS))[:-9], "standard input is not a whole gzip file"),
        (b"hello\n", "standard input: unknown format"),
        (b"instruction,output\na,b,c\n", "standard input, line 2: the row has 3 values"),
    ],
)
def test_faults_of_standard_input_are_named_as_its_own(
    monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(content))
    with pytest.raises(ValueError, match=says) as caught:
        rows_of(["-"])
    assert "/tmp" not in str(caught.value)
    monkeypatch.setattr(Piped, "isatty", lambda self: True)
    with pytest.raises(ValueError, match="terminal"):
        rows_of(["-"])


def test_an_open_pipe_is_read_once_and_one_without_a_writer_is_not_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: Path(f"/dev/fd/{writing}").write_bytes(text(ROWS)) and os.close(writing))
    writer.start()
    assert rows_of([f"/dev/fd/{reading}"]) == ROWS
    writer.join()
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is not a regular file"):
        open_input([str(tmp_path / "pipe")], None)


def test_a_run_from_a_pipe_continues_and_equals_the_run_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    load_models_once(monkeypatch)

    def run(output: str, *inputs: str) -> int:
        more = ["--model", tiny_model_folder(), "--device", "cpu", "--shard-rows", "16", "--format", "jsonl"]
        return main(["ifd", *inputs, *more, "--output", str(tmp_path / output)])

    monkeypatch.setattr(sys, "stdin", Piped(text(ROWS)))
    assert run("piped", "-") == 0
    (rows,) = (tmp_path / "piped").glob("rows-*.arrow")
    assert (tmp_path / "piped/scores.jsonl").read_text().count("\n") == len(ROWS)
    before = sorted((tmp_path / "piped/shards").iterdir())
    (tmp_path / "piped/scores.jsonl").unlink()
    before[1].unlink()
    monkeypatch.setattr(sys, "stdin", Piped(text(ROWS)))
    assert run("piped", "-") == 0 and rows.exists()
    after = sorted((tmp_path / "piped/shards").iterdir())
    assert len(after) == len(before) == 4 and {*before} - {*after} <= {before[1]}, "only what was missing is computed"
    monkeypatch.setattr(sys, "stdin", Piped(text(ROWS[1:])))
    capfd.readouterr()
    assert run("piped", "-") == 2 and "input_digest" in capfd.readouterr().err
    path = write(tmp_path / "rows.jsonl", text(ROWS))
    assert run("filed", str(path)) == 0
    assert (tmp_path / "filed/scores.jsonl").read_text() == (tmp_path / "piped/scores.jsonl").read_text()
    one = write(tmp_path / "a.jsonl", text(ROWS[:30]))
    other = write(tmp_path / "b.jsonl.gz", gzip.compress(text(ROWS[30:])))
    assert run("halves", str(one), str(other)) == 0
    assert (tmp_path / "filed/scores.jsonl").read_text() == (tmp_path / "halves/scores.jsonl").read_text()
