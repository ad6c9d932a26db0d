"""Shards of a run folder: what is whole is kept, what is missing or damaged is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import fill
from squares import SETTINGS, Squares, open_folder, run_squares, shard_paths

from instsel.runs.shards import ShardedStage, pack_shard


def test_a_stage_is_computed_once_and_read_back_whole(tmp_path: Path) -> None:
    values, first, _ = run_squares(tmp_path / "run")
    assert values.tolist() == [float(i * i) for i in range(25)]
    assert first.asked == [range(0, 10), range(10, 20), range(20, 25)]
    again, second, _ = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist()
    assert second.asked == []


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "swap", "renumbered", "foreign"])
def test_a_damaged_shard_is_set_aside_and_computed_again(tmp_path: Path, harm: str) -> None:
    values, _, _ = run_squares(tmp_path / "run")
    victim = shard_paths(tmp_path / "run")[1]
    content = victim.read_bytes()
    if harm == "flip":
        victim.write_bytes(content[:60] + bytes([content[60] ^ 1]) + content[61:])
    elif harm == "swap":  # whole, but another shard's
        victim.write_bytes(shard_paths(tmp_path / "run")[0].read_bytes())
    elif harm == "renumbered":  # whole, with the right digest, but of other rows
        other = shard_paths(tmp_path / "run")[0]
        victim.unlink()
        victim = other.with_name(other.name.replace("-00000-", "-00001-"))
        shutil.copy(other, victim)
    elif harm == "foreign":  # whole, with the right digest, but no shard of this run
        run_squares(tmp_path / "other", settings={**SETTINGS, "seed": 1})
        victim.unlink()
        victim = tmp_path / "run/shards" / shard_paths(tmp_path / "other")[1].name
        shutil.copy(shard_paths(tmp_path / "other")[1], victim)
    else:
        victim.write_bytes(content[: len(content) // 2] if harm == "cut" else b"")
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist()
    assert squares.asked == [range(10, 20)]
    assert folder.damaged == [victim.name]
    assert (tmp_path / "run/damaged" / victim.name).is_file()


def test_a_shard_with_rows_past_the_end_is_set_aside_and_computed_again(tmp_path: Path) -> None:
    """Whole, with the right digest and settings: of the same run when its input was longer."""
    values, _, _ = run_squares(tmp_path / "run")
    run_squares(tmp_path / "longer", Squares(rows=35))
    shard_paths(tmp_path / "run")[2].unlink()
    victim = tmp_path / "run/shards" / shard_paths(tmp_path / "longer")[2].name
    shutil.copy(shard_paths(tmp_path / "longer")[2], victim)
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist() and squares.asked == [range(20, 25)]
    assert folder.damaged == [victim.name]


def test_every_single_flipped_byte_of_a_shard_is_noticed(tmp_path: Path) -> None:
    run_squares(tmp_path / "run", Squares(rows=3))
    stage = Squares(rows=3).stage
    victim = shard_paths(tmp_path / "run")[0]
    content = victim.read_bytes()
    folder = open_folder(tmp_path / "run")
    try:
        assert folder.shards.whole(stage) == {range(3): victim}  # the check itself can pass
        for place in range(0, len(content), 7):
            victim.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            assert folder.shards.whole(stage) == {}, place
    finally:
        folder.close()


def test_an_interrupted_shard_is_dropped_and_a_finished_one_is_kept(tmp_path: Path) -> None:
    squares = Squares()

    def compute(rows: range) -> Any:
        if rows.start == 20 and len(squares.asked) == 2:
            raise KeyboardInterrupt
        return squares.compute(rows)

    folder = open_folder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        fill(folder, ShardedStage("squares", 25), compute)
    folder.close()
    assert len(shard_paths(tmp_path / "run")) == 2
    values, later, _ = run_squares(tmp_path / "run")
    assert later.asked == [range(20, 25)] and values[24] == 576.0


def test_where_shards_end_is_no_setting(tmp_path: Path) -> None:
    """What is there counts wherever it ends, and what is between it is computed and nothing else."""
    run_squares(tmp_path / "run")
    shard_paths(tmp_path / "run")[1].unlink()
    values, squares, folder = run_squares(tmp_path / "run", step=4)
    assert squares.asked == [range(10, 12), range(12, 16), range(16, 20)]
    assert values.tolist() == [float(i * i) for i in range(25)] and folder.damaged == []
    again, squares, _ = run_squares(tmp_path / "run", step=25)
    assert again.tolist() == values.tolist() and squares.asked == []


@pytest.mark.parametrize("first_row", [3, 20])
def test_a_shard_of_rows_that_another_has_or_that_are_not_there_is_set_aside(tmp_path: Path, first_row: int) -> None:
    """Whole and of this run, as it says itself, but not beside the others: no row may come twice, and none too many."""
    values, _, _ = run_squares(tmp_path / "run")
    folder = open_folder(tmp_path / "run")
    rows = range(first_row, first_row + 10)
    packed = pack_shard("squares", folder.shards.settings, rows, {"square": np.full(10, -1.0)}, {})
    extra = folder.shards.write(ShardedStage("squares", 40), first_row, packed)
    folder.close()
    again, squares, folder = run_squares(tmp_path / "run")
    assert again.tolist() == values.tolist() and squares.asked == [] and folder.damaged == [extra.name]
