"""--overwrite: refused where it would take what no run wrote, or an input; the old run stays until the new is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_folders import fill, texts, write_influence
from squares import SETTINGS, Squares, open_folder, run_squares

from instsel.cli import main
from instsel.runs import RunFolder
from instsel.runs.finished_run import read_run
from instsel.runs.shards import ShardedStage

OTHER = {**SETTINGS, "seed": 3}


def content(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder with its bytes."""
    found = folder.rglob("*")
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in found}


def select(*arguments: object) -> int:
    return main(["select", "--quiet", "--budget", "3", "--by", "score", *map(str, arguments)])


def project(folder: Path) -> Path:
    """A user's folder with the names that runs use."""
    for name in ("shards/mine.jsonl", "columns/a.txt", "damaged/b.bin", "scores.parquet", "report.html", "lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the user's {name}")
    return folder


@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["plain", "overwrite"])
@pytest.mark.parametrize("manifest", [None, "{}", '{"name": "app", "start_url": "."}'], ids=["none", "empty", "app's"])
def test_a_users_folder_is_refused_and_stays(
    tmp_path: Path, more: list[str], manifest: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mine = write_influence(tmp_path / "run", 20), project(tmp_path / "mine")
    if manifest is not None:
        (mine / "manifest.json").write_text(manifest)
    before = content(mine)
    assert select(run, "--output", mine, *more) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not empty and not a run folder (it holds columns/a.txt" in said
    assert content(mine) == before


@pytest.mark.parametrize("name", ["scores.parquet", "lock", "report.html", "shards/ifd-mine.parquet", ".unfinished-x"])
def test_one_file_is_enough(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine" / name).parent.mkdir(parents=True)
    (tmp_path / "mine" / name).write_text("the user's")
    with pytest.raises(ValueError, match="is not empty and not a run folder"):
        open_folder(tmp_path / "mine", overwrite=True)
    assert [text for text in content(tmp_path / "mine").values() if text is not None] == [b"the user's"]


@pytest.mark.parametrize("name", ["notes.txt", "shards/mine.parquet", "columns/mine.npy", "report.html", "next/mine"])
def test_a_run_beside_which_a_user_keeps_files_is_not_overwritten_and_goes_on(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    run_squares(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("the user's")
    before = content(folder)
    for settings in (SETTINGS, OTHER):
        with pytest.raises(ValueError, match=f"is not overwritten: it holds what no run wrote .*{name}"):
            open_folder(folder, settings, overwrite=True)
        assert content(folder) == before
    run_squares(folder)
    assert (folder / name).read_text() == "the user's"


def test_a_link_in_the_place_of_a_runs_folder_is_not_followed(tmp_path: Path) -> None:
    run_squares(tmp_path / "run")
    os.rename(tmp_path / "run/shards", tmp_path / "elsewhere")
    (tmp_path / "run/shards").symlink_to(tmp_path / "elsewhere")
    before = content(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="holds what no run wrote"):
        open_folder(tmp_path / "run", OTHER, overwrite=True)
    assert content(tmp_path / "elsewhere") == before


def test_a_run_of_which_nothing_was_computed_keeps_what_a_user_put_there(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "run")
    for name in ("shards/mine.jsonl", "columns/mine.npy", "damaged/mine", "report.html"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("the user's")
    folder.close()
    assert {name for name, text in content(tmp_path / "run").items() if text == b"the user's"} >= {
        "shards/mine.jsonl", "columns/mine.npy", "damaged/mine", "report.html"
    }  # fmt: skip


def test_a_result_is_not_its_own_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its result, a copy of an array in it, or a link from elsewhere: all would go with the run."""
    run = write_influence(tmp_path / "run", 20)
    (run / "columns").mkdir()
    np.save(run / "columns/embeddings.embedding.npy", np.eye(20, dtype=np.float32))
    (tmp_path / "link.parquet").symlink_to(run / "scores.parquet")
    (tmp_path / "link").symlink_to(run)
    outside = write_influence(tmp_path / "outside", 20)
    before = content(run)
    for arguments in (
        [run],
        [run / "scores.parquet"],
        [tmp_path / "link.parquet"],
        [tmp_path / "link/scores.parquet"],
        [outside, "--embeddings", run / "columns/embeddings.embedding.npy"],
    ):
        assert select(*arguments, "--output", run, "--overwrite") == 2
        assert "lies in the output folder" in capsys.readouterr().err
        assert content(run) == before
    assert select(outside, "--output", run, "--overwrite") == 0, "the control: what is no input is overwritten"
    assert pq.read_table(run / "selected.parquet").num_rows == 3 and not (run / "scores.parquet").exists()


def test_the_old_run_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A new run that fails leaves the old one as it was, and goes on where it stopped."""
    folder = tmp_path / "run"
    run_squares(folder)
    before = content(folder)

    def fails(rows: range) -> Any:
        if rows.start == 20:
            raise ValueError("the machine is on fire")
        return Squares().compute(rows)

    new = open_folder(folder, OTHER, overwrite=True)
    with pytest.raises(ValueError, match="on fire"):
        fill(new, ShardedStage("squares", 25), fails)
    new.close()
    kept = {name: text for name, text in content(folder).items() if not name.startswith("next")}
    assert {**before, "lock": b""} == {**kept, "lock": b""}
    again = Squares()
    folder_again = open_folder(folder, OTHER, overwrite=True)
    fill(folder_again, again.stage, again.compute)
    folder_again.finish()
    values = folder_again.shards.columns(again.stage)["square"]
    folder_again.close()
    assert again.asked == [range(20, 25)] and values.tolist() == [float(i * i) for i in range(25)]
    assert read_run(folder).manifest["seed"] == 3 and not (folder / "next").exists()
    assert len(list((folder / "shards").glob("*"))) == 3


def killed(change: Callable[[], int], step: int) -> bool:
    """Run `change` in a process that ends before it changes names on the disk once more than `step` times.

    False if it came to its end before.
    """
    child = os.fork()
    if child == 0:
        count = 0

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def one(*args: Any, **options: Any) -> Any:
                nonlocal count
                if count >= step:
                    os._exit(9)
                count += 1
                return real(*args, **options)

            return one

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "remove"):
            setattr(os, name, counted(getattr(os, name)))
        os._exit(change())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.long
def test_killed_before_any_change_of_a_file_it_is_the_old_run_or_the_new_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At each step what a reader sees is one of the two, whole; the same command then ends with the new one."""
    old, new = (
        write_influence(tmp_path / "old", 20),
        write_influence(tmp_path / "new", 20, pool=texts(20, answer="other")),
    )
    results = {}
    for name, source in (("old", old), ("new", new)):
        assert select(source, "--output", tmp_path / f"of_{name}") == 0
        results[name] = (tmp_path / f"of_{name}/selected.parquet").read_bytes()
    assert results["old"] != results["new"]
    inputs = {source: content(source) for source in (old, new)}
    seen, step, stopped = [], 0, True
    while stopped:
        chosen = tmp_path / f"chosen{step}"
        shutil.copytree(tmp_path / "of_old", chosen)
        stopped = killed(lambda chosen=chosen: select(new, "--output", chosen, "--overwrite"), step)
        run = read_run(chosen)
        seen.append("new" if Path(run.manifest["input"]).parent == new else "old")
        result = run.result()
        assert result is not None and result.read_bytes() == results[seen[-1]], step
        assert main(["status", str(chosen)]) == 0
        if stopped:
            assert select(new, "--output", chosen, "--overwrite") == 0
        assert (chosen / "selected.parquet").read_bytes() == results["new"]
        assert read_run(chosen).manifest["input"] == str(new / "scores.parquet")
        assert set(content(chosen)) == set(content(tmp_path / "of_new")), step
        step += 1
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"} and step > 12
    assert {source: content(source) for source in (old, new)} == inputs


def test_a_damaged_manifest_and_a_result_under_it_are_set_aside(tmp_path: Path) -> None:
    """Which settings a merged result is of, nobody can tell: it is not replaced but moved."""
    run_squares(tmp_path / "run")
    (tmp_path / "run/scores.parquet").write_bytes(b"merged")
    (tmp_path / "run/manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"is not overwritten: its manifest\.json is damaged"):
        open_folder(tmp_path / "run", OTHER, overwrite=True)
    folder: RunFolder = run_squares(tmp_path / "run")[2]
    assert folder.damaged == ["manifest.json", "scores.parquet"]
    assert (tmp_path / "run/damaged/scores.parquet").read_bytes() == b"merged"
    assert json.loads((tmp_path / "run/manifest.json").read_text())["seed"] == 0
