"""Run folders that somebody sent: whatever a manifest, a lock or a file in its place is, each command ends with a line.

`fuzzed` changes a real manifest or lock at random; a longer run of it is among the slow tests.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import fill, texts, write_influence
from test_run_readers import ROWS, SETTINGS, finished, readers

from instsel.cli import main
from instsel.runs import RunError, RunFolder
from instsel.runs.lock import FolderInUseError, read_holder, running_holder
from instsel.runs.shards import ShardedStage

pytestmark = pytest.mark.long
DEEP = "[" * 5000 + "]" * 5000
VALUES: list[Any] = [
    None, True, 0, -1, 3, 2**63, 10**19, 1e308, float("nan"), float("-inf"), "", "x", "\x1b[31mred", "\ud800", "\0",
    "../other/scores.parquet", "scores.jsonl", [], [None], [[]], [["square", 10**9, 1]], [["square", -1, 0]],
    [["embeddings", 30, 7]], {}, {"name": 5}, {"name": "\x1b[2J"}, {"text": {"a": 1}}, {"a": {"b": [1, {"c": None}]}},
    {"clusters": {"a": [1]}}, {"ok": "many"}, {"wall_seconds": "long"}, {"wall_seconds": 1e300},
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "run")


def ended(command: list[str], *, codes: tuple[int, ...] = (0, 1, 2)) -> tuple[int, str, str]:
    """A command's exit code and what it said, in order and in lines."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    said = err.getvalue()
    assert code in codes and "unexpected" not in said and "Traceback" not in said, (command, said)
    errors = [line for line in said.splitlines() if ": warning: " not in line]
    assert len(errors) == (code != 0), (command, said)
    assert "\x1b" not in out.getvalue() + said, (command, out.getvalue() + said)
    return code, out.getvalue(), said


def every_command_ends(folder: Path, out: Path) -> None:
    """Each reader, a merge into the folder, its own run continued, a selection that overwrites it."""
    out.mkdir()
    for command in [*readers(folder, out), ["merge", str(folder), "--quiet"]]:
        ended(command)
    with contextlib.suppress(ValueError, RunError, FolderInUseError):
        again = RunFolder(folder, SETTINGS, {"environment": {}})
        again.is_finished("scores.parquet")
        again.kept_rows()
        fill(again, ShardedStage("embeddings", ROWS), lambda rows: ({"status": ["ok"] * len(rows)}, {}), 8)
        again.close()
    pool = write_influence(out / "pool", 9, pool=texts(9))
    ended(["select", str(pool), "--budget", "2", "--quiet", "--output", str(folder), "--overwrite"])


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which something is other, gone, or where it was not."""
    value = copy.deepcopy(value)
    place: Any = value
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return rng.choice(VALUES)
        key = rng.choice(keys)
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.5:
            place = place[key]
            continue
        kind = rng.random()
        if kind < 0.15:
            del place[key]
        elif kind < 0.25 and isinstance(place, dict):
            place[rng.choice(["state", "output", "stages", "x\x1b[1m", ""])] = place.pop(key)
        else:
            place[key] = rng.choice(VALUES)
        return value


def fuzzed(run: Path, folder: Path, seed: int) -> None:
    """A run with a changed manifest, lock or notes of workers."""
    rng = random.Random(seed)
    shutil.copytree(run, folder)
    name = rng.choice(["manifest.json"] * 8 + ["lock", "progress.json"])
    if name == "manifest.json":
        found: Any = json.loads((run / name).read_text())
    elif name == "lock":
        found = {"host": os.uname().nodename, "pid": os.getpid(), "start_time": 0}
    else:
        found = {"updated": 0.0, "workers": [{"place": "cpu", "state": "works", "rows": 3, "seconds": 0.5, "pid": 4}]}
    for _ in range(rng.choice([1, 1, 2, 4])):
        found = changed(found, rng) if isinstance(found, (dict, list)) and found else rng.choice(VALUES)
    text = json.dumps(found)
    if rng.random() < 0.1:
        place = rng.randrange(len(text) + 1)
        text = text[:place] + rng.choice(["", DEEP, "\x00", "\xff", "9" * 5000]) + text[place + rng.randrange(3) :]
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("seeds", [range(6), pytest.param(range(6, 1500), marks=pytest.mark.slow)], ids=len)
def test_changed_at_random(run: Path, tmp_path: Path, seeds: range) -> None:
    for seed in seeds:
        folder = tmp_path / "run"
        fuzzed(run, folder, seed)
        try:
            every_command_ends(folder, tmp_path / "out")
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
        shutil.rmtree(folder)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    "fields",
    [
        {"output": "scores.parquet"}, {"output": {"name": 3}}, {"output": {"name": "../run/scores.parquet"}},
        {"counts": []}, {"counts": {"ok": "all"}}, {"stats": 5}, {"stages": {"a": 1}},
        {"stages": [["square", 2**60, 1]]}, {"findings": "none"}, {"rows": "30"}, {"compared": 7},
        {"environment": ["torch"]}, {"columns": {}},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_manifest_with_a_wrong_type_is_damaged(run: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **fields}))
    for command in readers(folder, tmp_path):
        code, _, said = ended(command, codes=(2,))
        assert f"the manifest of {folder} is damaged" in said, code


@pytest.mark.parametrize("text", [DEEP, '{"format": 1, "method": ' + DEEP + "}", "9" * 5000, "\xff\x00", '"\\ud800"'])
@pytest.mark.parametrize("name", ["manifest.json", "lock", "progress.json"])
def test_a_file_that_no_reader_can_follow(run: Path, tmp_path: Path, name: str, text: str) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    (folder / name).write_text(text)
    every_command_ends(folder, tmp_path / "out")


def in_place(kind: str) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "device" else path.name)

    return put


@pytest.fixture
def files() -> Iterator[list[str]]:
    yield ["manifest.json", "lock", "progress.json", "scores.parquet", "rows-*.arrow", "shards/embeddings-*.parquet"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_what_is_no_file_is_not_waited_for(run: Path, tmp_path: Path, kind: str, files: list[str]) -> None:
    for number, name in enumerate(files):
        folder = Path(shutil.copytree(run, tmp_path / f"run{number}"))
        for path in [folder / name] if "*" not in name else sorted(folder.glob(name)):
            in_place(kind)(path)
        every_command_ends(folder, tmp_path / f"out{number}")


@pytest.mark.parametrize("pid", [10**19, 2**31, 0, -1, True, 1.5, "7", None])
def test_a_lock_of_no_process_is_held_by_nobody(tmp_path: Path, pid: Any) -> None:
    (tmp_path / "lock").write_text(json.dumps({"host": os.uname().nodename, "pid": pid, "start_time": 0}))
    assert read_holder(tmp_path / "lock") is None and running_holder(tmp_path) is None
    (tmp_path / "lock").write_text(json.dumps({"host": "h", "pid": 7, "start_time": 0}))
    assert read_holder(tmp_path / "lock") is not None, "the control"


def test_nothing_in_a_folder_is_obeyed_by_a_terminal(run: Path, tmp_path: Path) -> None:
    folder, red = Path(shutil.copytree(run, tmp_path / "run")), "\x1b[31m\x07"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(method=red, state=red, input=red, model=red, version=red, findings={red: red}, counts={red: 1})
    manifest["compared"] = [red, "version"]
    manifest["stages_to_come"] = [red]
    worker = {"place": red, "state": red, "host": red, "pid": red, "rows": 1}
    (folder / "progress.json").write_text(json.dumps({"workers": [worker]}))
    for state in (red, "finished"):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "state": state}))
        for holder in ("", json.dumps({"host": red, "pid": 1, "start_time": 0})):
            (folder / "lock").write_text(holder)
            code, out, _ = ended(["status", str(folder)])
            assert code == 0 and "\\x1b[31m\\x07" in out
