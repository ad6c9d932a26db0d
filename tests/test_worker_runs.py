"""Runs on a pool of processes: the numbers of one process, whatever happens to the workers or to their driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tiny_model import tiny_model_folder
from worker_faults import (
    assert_same_run,
    children_of,
    command,
    deaths,
    disturbed,
    is_alive,
    kill_worker,
    poisoned,
    run,
    shards,
    use_pool,
    wait_until,
)

import instsel
from instsel.cli import main
from instsel.commands import status as status_command
from instsel.parallel import scheduler, whole_columns
from instsel.parallel.pool import Pool

pytestmark = pytest.mark.long


def test_a_run_on_workers_is_the_run_on_none(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pool(monkeypatch, pool)
    for method in ("wici", "slow", "score"):
        run(command(tmp_path, f"{method}-alone", method=method, pause=0))
        run(command(tmp_path, method, "--workers", "2", method=method, pause=0))
        assert_same_run(tmp_path / f"{method}-alone", tmp_path / method)
    assert len(json.loads((tmp_path / "wici/progress.json").read_text())["workers"]) == 2
    before = (tmp_path / "wici/scores.parquet").read_bytes()
    for path in sorted((tmp_path / "wici/shards").glob("*-000[1-3]0-*")):
        path.unlink()
    (tmp_path / "wici/scores.parquet").unlink()
    run(command(tmp_path, "wici", method="wici"))  # continued without workers
    assert (tmp_path / "wici/scores.parquet").read_bytes() == before


def test_workers_that_do_not_see_the_folder_are_sent_rows_and_columns(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", method="wici"))
    monkeypatch.setattr(Pool, "sees_disk", property(lambda self: False))
    monkeypatch.setattr(whole_columns, "PIECE_BYTES", 1000)  # embeddings of 32 numbers: seven rows
    run(command(tmp_path, "run", "--workers", "2", method="wici"))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_run_whose_workers_are_killed_is_the_run_that_was_left_alone(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", pause=0))
    before = deaths(pool)
    with disturbed(tmp_path / "run", 4, 3, lambda number: kill_worker(pool, number)) as struck:
        run(command(tmp_path, "run", "--workers", "2", pause=0.2))
    assert len(struck) == 3 and deaths(pool) - before == 3
    assert_same_run(tmp_path / "alone", tmp_path / "run")


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_rows_that_kill_their_workers_get_a_status_and_the_run_goes_on(
    pool: Pool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times: int,
) -> None:
    use_pool(monkeypatch, pool)
    monkeypatch.setattr(scheduler, "DEATHS_OF_A_TASK", times)
    before = deaths(pool)
    assert main([*poisoned(tmp_path, {23}), "--max-failures", "0.2"]) == 0
    assert f"poison, rows 20 to 29: {times} workers died of it" in capsys.readouterr().err
    assert deaths(pool) - before == times
    found = pq.read_table(tmp_path / "run/scores.parquet").to_pydict()
    alone = instsel.perplexity(
        instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32"),
        [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()],
    )
    for row, (status, score) in enumerate(zip(found["status"], found["score"], strict=True)):
        if row in range(20, 30):
            assert score is None and status == ("worker_died" if alone.status[row] == "ok" else alone.status[row])
        else:
            assert status == alone.status[row]
    assert main([*poisoned(tmp_path, {23})]) == 1  # the share of rows that failed is too large


def test_a_task_that_kills_without_a_forward_ends_the_run_with_its_rows_named(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pool(monkeypatch, pool)
    monkeypatch.setattr(scheduler, "DEATHS_OF_A_TASK", 1)
    assert main(poisoned(tmp_path, {23}, always=True)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "poison, rows 20 to 29: the worker died (killed by SIGKILL) even when nothing was forwarded" in said
    assert json.loads((tmp_path / "run/manifest.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("count", "how", "worker_first", "dtype"),
    [
        (2, signal.SIGKILL, True, "bfloat16"),
        (4, signal.SIGINT, False, "float32"),
        pytest.param(4, signal.SIGKILL, False, "float32", marks=pytest.mark.slow),
        pytest.param(2, signal.SIGKILL, False, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_driver_that_is_stopped_leaves_no_worker_and_a_folder_that_continues(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pool: Pool,
    count: int,
    how: signal.Signals,
    worker_first: bool,
    dtype: str,
) -> None:
    asked = ["--devices", "cpu," * (count - 1) + "cpu"] if worker_first else ["--workers", str(count)]
    arguments = command(tmp_path, "run", *asked, pause=0.4, dtype=dtype)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen(
        [sys.executable, "-m", "instsel.cli", *arguments], env=environment, start_new_session=True
    )
    try:
        wait_until(lambda: shards(tmp_path / "run") >= 3, 120)
        notes = json.loads((tmp_path / "run/progress.json").read_text())["workers"]
        pids = [worker["pid"] for worker in notes]
        assert len(pids) == count and all(is_alive(pid) for pid in pids)
        if worker_first:
            os.kill(pids[0], signal.SIGKILL)
        os.killpg(driver.pid, how)
        wait_until(lambda: driver.poll() is not None, 60)
        assert driver.returncode == (-how if how == signal.SIGKILL else 128 + how)
        wait_until(lambda: not any(is_alive(pid) for pid in pids), 60)
        # Nor is one left that was being started in the place of the dead one.
        wait_until(lambda: not children_of(driver.pid), 30)
    finally:
        driver.kill()
    kept = {path.name for path in (tmp_path / "run/shards").glob("*.parquet")}
    assert len(kept) < 24
    if count == 4:  # goes on with two workers, else with none
        use_pool(monkeypatch, pool)
        run(command(tmp_path, "run", "--workers", "2", pause=0, dtype=dtype))
    else:
        run(command(tmp_path, "run", pause=0, dtype=dtype))
    assert kept <= {path.name for path in (tmp_path / "run/shards").glob("*.parquet")}, "none was computed again"
    run(command(tmp_path, "alone", pause=0, dtype=dtype))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_status_names_the_stages_whose_time_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command(tmp_path, "run", method="score"))
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    (stage, rows) = manifest["stages"][0]
    assert manifest["stages_to_come"] == []
    monkeypatch.setattr(status_command, "running_holder", lambda folder: "process 1")
    for stages, to_come, said in (
        ([[stage, 2 * rows]], [], "  left over all: about "),
        ([[stage, rows], ["direct", 5]], ["influence"], "  left over all: direct, influence, of which"),
        ([[stage, rows]], [], None),
    ):
        found = {**manifest, "stages": stages, "stages_to_come": to_come}
        (tmp_path / "run/manifest.json").write_text(json.dumps(found))
        assert main(["status", str(tmp_path / "run")]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "left over all" in line]
        assert lines == [] if said is None else lines[0].startswith(said)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_workers_killed_at_ten_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(scheduler, "DEATHS_OF_A_TASK", 20)  # our kills that meet one shard thrice are no fault of it
    run(command(tmp_path, "alone", pause=0))
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.workers(scorer, ["cpu"] * count) as pool:
        use_pool(monkeypatch, pool)
        with disturbed(tmp_path / "run", 2, 10, lambda number: kill_worker(pool, number)) as struck:
            run(command(tmp_path, "run", "--workers", str(count), pause=0.5))
        assert len(struck) == 10
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_status_shows_the_workers_of_a_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pool: Pool
) -> None:
    use_pool(monkeypatch, pool)
    said: list[str] = []

    def look(number: int) -> None:
        assert main(["status", str(tmp_path / "run")]) == 0
        said.append(capsys.readouterr().out)

    with disturbed(tmp_path / "run", 16, 1, look):
        run(command(tmp_path, "run", "--workers", "2", pause=0.4))
    lines = [line for line in said[0].splitlines() if line.startswith("  worker ")]
    assert len(lines) == 2 and all("rows/s" in line and "process" in line for line in lines), said[0]
    assert any("slow, rows" in line for line in lines) and "\n  left over all: about " in said[0], said[0]
    assert main(["status", str(tmp_path / "run")]) == 0
    after = capsys.readouterr().out
    assert "  worker " not in after and "left" not in after
