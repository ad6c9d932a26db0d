"""Run folders behind addresses: the files of a folder on the disk, and a run that goes on wherever it stopped."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from worker_faults import assert_same_run, command, run

from instsel.cli import main
from instsel.runs import stored_folder
from instsel.runs.stored_folder import StoredCopy

ADDRESS = "memory://runs/pool"


def stored(tmp_path: Path, *more: str, address: str = ADDRESS, **options: Any) -> list[str]:
    """The command of a run into a store."""
    return command(tmp_path, "unused", "--output", address, *more, pause=0, **options)


def names(store: Any) -> set[str]:
    return {name.removeprefix("/runs/pool/") for name in store.find("/runs/pool")}


def copied(store: Any, folder: Path) -> Path:
    """What a store has, in a folder."""
    store.get("/runs/pool/", str(folder), recursive=True)
    return folder


def without_digest(names: set[str]) -> set[str]:
    """A shard's file also says how long it took, so its digest differs from run to run."""
    return {name.rsplit("-", 1)[0] if name.startswith("shards/") else name for name in names}


@pytest.mark.long
def test_a_store_gets_the_files_of_a_run_folder(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(command(tmp_path, "here", pause=0))
    run(stored(tmp_path))
    here = {path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here").rglob("*")}
    expected = {name for name in here if (tmp_path / "here" / name).is_file()} - {"lock", "progress.json"}
    assert without_digest(names(store)) == without_digest(expected) and len(expected) > 24
    assert not (tmp_path / "unused").exists()
    assert_same_run(tmp_path / "here", copied(store, tmp_path / "copy"))
    before = names(store)
    arguments = [one for one in stored(tmp_path) if one != "--quiet"]
    assert main(arguments) == 0
    assert f"already finished: {ADDRESS}/scores.parquet" in capsys.readouterr().out
    assert names(store) == before
    run(command(tmp_path, "copy", pause=0))  # a copy on the disk is a run folder like any


@pytest.mark.long
def test_a_run_that_the_store_ended_goes_on_with_the_shards_that_it_has(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put, shards = StoredCopy._put, itertools.count(1)

    def full(self: StoredCopy, folder: Path, name: str) -> None:
        if name.startswith("shards/") and next(shards) > 5:
            raise stored_folder.StoreError("the bucket is full")
        put(self, folder, name)

    monkeypatch.setattr(StoredCopy, "_put", full)
    assert main(stored(tmp_path)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"cannot write to run folder {ADDRESS}: the bucket is full; what is whole is kept" in said
    kept = {name for name in names(store) if name.startswith("shards/")}
    assert len(kept) == 5
    monkeypatch.undo()
    run(stored(tmp_path))
    assert kept < names(store), "what the store had was not computed again"
    run(command(tmp_path, "here", pause=0))
    assert_same_run(tmp_path / "here", copied(store, tmp_path / "copy"))


@pytest.mark.long
def test_a_shard_that_was_damaged_in_the_store_is_computed_again(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stored(tmp_path))
    (victim,) = (name for name in names(store) if name.startswith("shards/slow-00030-"))
    store.pipe(f"/runs/pool/{victim}", b"PAR1 and no more")
    store.rm("/runs/pool/scores.parquet")
    run(stored(tmp_path))
    assert "was damaged" in capsys.readouterr().err
    assert len([name for name in names(store) if name.startswith("shards/")]) == 24 and victim not in names(store)
    run(command(tmp_path, "here", pause=0))
    assert_same_run(tmp_path / "here", copied(store, tmp_path / "copy"))


@pytest.mark.long
def test_another_run_is_refused_and_overwritten_only_where_that_was_asked(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(stored(tmp_path))
    before = names(store)
    assert main(stored(tmp_path, "--limit", "50")) == 2
    assert f"{ADDRESS} holds a run with other settings: limit (none there, 50 now)" in capsys.readouterr().err
    assert names(store) == before
    run(stored(tmp_path, "--limit", "50", "--overwrite"))
    assert len([name for name in names(store) if name.startswith("shards/")]) == 5
    assert json.loads(store.cat("/runs/pool/manifest.json"))["rows"] == 50


def test_what_is_no_place_for_a_run_is_said_before_anything_is_scored(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pipe("/runs/pool/thesis.tex", b"years of work")

    def refused(self: StoredCopy, folder: Path, name: str) -> None:
        raise stored_folder.StoreError("access denied")

    monkeypatch.setitem(sys.modules, "s3fs", None)
    for address, said in (
        (ADDRESS, f"{ADDRESS} is not empty and not a run folder (it holds thesis.tex)"),
        ("nosuchstore://a/b", "output folder nosuchstore://a/b cannot be reached: Protocol not known: nosuchstore"),
        ("s3://bucket/run", "output folder s3://bucket/run cannot be reached: Install s3fs to access S3"),
        ("memory://elsewhere", "cannot write to run folder memory://elsewhere: access denied"),
    ):
        if address == "memory://elsewhere":
            monkeypatch.setattr(StoredCopy, "_put", refused)
        assert main(stored(tmp_path, address=address)) != 0
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and said in error[0], error
    assert store.find("/") == ["/runs/pool/thesis.tex"]
