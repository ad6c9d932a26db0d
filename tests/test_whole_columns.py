"""Columns at all rows: mapped from files of a run folder, and sent in pieces to workers that do not see it."""

from __future__ import annotations

import errno
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import tiny_model_folder, write_alpaca

from instsel.cli import main
from instsel.neighbors.mapped_rows import Prepared, blocks_of, is_mapped, rows_of
from instsel.parallel import whole_columns
from instsel.parallel.whole_columns import PackedColumns
from instsel.runs import stage_columns
from instsel.runs.shards import ShardedStage, ShardFolder, pack_shard


@pytest.fixture
def folder(tmp_path: Path) -> ShardFolder:
    folder = ShardFolder(tmp_path / "shards", tmp_path / "damaged", tmp_path / "columns", "settings")
    folder.prepare()
    return folder


def written(folder: ShardFolder, columns: dict[str, Any], shard_rows: int) -> ShardedStage:
    """A complete stage with these columns."""
    rows = len(next(iter(columns.values())))
    stage = ShardedStage("one", rows)
    for start in range(0, rows, shard_rows):
        part = range(start, min(start + shard_rows, rows))
        cut = {name: values[part.start : part.stop] for name, values in columns.items()}
        folder.write(stage, start, pack_shard("one", "settings", part, cut, {}))
    return stage


def test_columns_of_shards_are_the_columns_that_were_written(folder: ShardFolder) -> None:
    rng = np.random.default_rng(0)
    ragged = np.empty(25, object)
    ragged[:] = [rng.normal(size=i % 3) for i in range(25)]
    columns = {
        "wide": rng.normal(size=(25, 7)).astype(np.float32),
        "places": rng.integers(-5, 5, (25, 2)),
        "flags": rng.random((25, 3)) < 0.5,
        "number": rng.normal(size=25),
        "status": np.array(["ok" if i % 4 else "a longer status" for i in range(25)]),
        "ragged": ragged,
    }
    columns["wide"][3, 2] = columns["number"][4] = np.nan
    stage = written(folder, columns, 10)
    found = folder.columns(stage)
    assert list(found) == list(columns)
    for name, values in columns.items():
        if name == "ragged":
            assert [one.tolist() for one in found[name]] == [one.tolist() for one in values]
        else:
            np.testing.assert_array_equal(found[name], values)
            assert found[name].dtype.kind == values.dtype.kind
    assert [name for name in columns if is_mapped(found[name])] == ["wide", "places", "flags"]
    assert found["wide"] is found["wide"], "mapped once"
    found.forget()
    assert not list(folder.scratch.iterdir()) and found["wide"].shape == (25, 7)


def test_rows_of_a_mapped_array_are_read_from_its_file(tmp_path: Path) -> None:
    array = np.arange(60.0).reshape(20, 3)
    np.save(tmp_path / "a.npy", array)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="c")
    assert is_mapped(mapped) and not is_mapped(mapped[3:]) and not is_mapped(array)
    for which in (slice(3, 8), np.array([7, 0, 7])):
        for of in (array, mapped):
            np.testing.assert_array_equal(rows_of(of, which), array[which])
            assert not is_mapped(rows_of(of, which))
    np.testing.assert_array_equal(rows_of(mapped[3:], slice(0, 2)), array[3:5])
    np.testing.assert_array_equal(np.concatenate([b for _, b in blocks_of(mapped, np.arange(20)[::-1])]), array[::-1])


def test_what_is_prepared_is_dropped_with_its_array() -> None:
    made: list[int] = []
    prepared = Prepared(lambda *arrays: made.append(len(made)) or made[-1])  # type: ignore[func-returns-value]
    one, other = np.zeros(3), np.zeros(3)
    assert [prepared(one, other), prepared(one, other), prepared(other, one)] == [0, 0, 1]
    assert prepared._last is not None
    del one
    assert prepared._last is None


@pytest.mark.parametrize("seen", [True, False])
def test_columns_arrive_by_their_file_or_in_pieces(
    folder: ShardFolder, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    wide = np.random.default_rng(1).normal(size=(25, 7)).astype(np.float32)
    columns = dict(folder.columns(written(folder, {"wide": wide, "number": wide[:, 0]}, 10)))
    monkeypatch.setattr(whole_columns, "PIECE_BYTES", 4 * 7 * 4)  # four rows
    packed_columns = PackedColumns("key", columns, seen=seen)
    assert len(packed_columns) == (1 if seen else 1 + 7)
    assert max(len(packed_columns[key]) for key in packed_columns) < 1000
    packed, *pieces = [pickle.loads(packed_columns[key]) for key in packed_columns]
    found = packed.open(pieces)
    for name in columns:
        np.testing.assert_array_equal(found[name], columns[name])
    assert is_mapped(found["wide"]) == seen and packed.open(pieces)["wide"] is found["wide"]


@pytest.mark.long
def test_a_disk_that_is_full_when_columns_are_mapped_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = write_alpaca(tmp_path / "rows.jsonl", 40)
    model = ["--model", tiny_model_folder(), "--device", "cpu", "--dtype", "float32", "--quiet"]
    command = ["miwv", str(rows), *model, "--output", str(tmp_path / "run")]
    monkeypatch.setattr(stage_columns, "write_array", full)
    assert main(command) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"cannot write to run folder {tmp_path / 'run'}: No space left on device" in said
    monkeypatch.undo()
    assert main(command) == 0, "the same command continues"
    assert not (tmp_path / "run/columns").exists()
