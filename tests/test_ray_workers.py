"""Ray actors on a cluster of three nodes: the numbers of one process, whatever becomes of actors, node and driver.

One cluster and one pool for all tests: a node leaves in the last test that uses both.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from example_rows import example_rows
from ray_clusters import cluster_of, has_process
from tiny_model import tiny_model_folder
from worker_faults import (
    assert_same_run,
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
from instsel.parallel import scheduler
from instsel.parallel.pool import Pool

pytestmark = pytest.mark.long

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(1, 1, 1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pool(cluster: Any) -> Iterator[Pool]:
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.ray_workers(scorer, 2) as pool:
        yield pool


def test_methods_on_actors_are_methods_on_one_process(pool: Pool, scorer: instsel.Scorer) -> None:
    rows = example_rows(40)
    ours, theirs = (instsel.wici(of, rows, num_neighbors=8, num_probes=2) for of in (pool, scorer))
    np.testing.assert_array_equal(ours.probes, theirs.probes)
    np.testing.assert_array_equal(ours.one_shot_ifd, theirs.one_shot_ifd)
    np.testing.assert_array_equal(ours.score, theirs.score)
    requests = [(f"demonstration {i // 4}", f" answer {i}") for i in range(24)]
    found, expected = (instsel.score_batch(of, requests).mean_logprob for of in (pool, scorer))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"requests\[0\]: expected token ids"):
        instsel.score_batch(pool, [([5], [10**6])])


def test_what_ray_cannot_give_is_said_at_once(pool: Pool, scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match="workers: 2 with 1 GPU each need 2, and this Ray has 0"):
        instsel.ray_workers(scorer, 2, num_gpus_per_worker=1)
    with pytest.raises(ValueError, match="workers: 99 with 1 CPU each need 99, and this Ray has"):
        instsel.ray_workers(scorer, 99)
    with pytest.raises(ValueError, match="address: this process is connected to another Ray"):
        instsel.ray_workers(scorer, 1, address="127.0.0.1:1")
    with pytest.raises(ValueError, match="workers: expected"):
        instsel.ray_workers(scorer, 0)


def test_a_model_folder_that_the_node_lacks_is_said_with_the_node(pool: Pool, tmp_path: Path) -> None:
    elsewhere = instsel.Scorer(str(tmp_path / "nowhere"), device="cpu")
    with pytest.raises(ValueError, match=rf"which does not exist \(the worker on {socket.gethostname()}\)"):
        instsel.ray_workers(elsewhere, 1)


def test_rows_that_kill_their_actor_get_a_status_and_the_run_goes_on(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pool(monkeypatch, pool)
    monkeypatch.setattr(scheduler, "DEATHS_OF_A_TASK", 1)
    before = deaths(pool)
    assert main([*poisoned(tmp_path, {23}), "--max-failures", "0.2"]) == 0
    assert "poison, rows 20 to 29: 1 workers died of it" in capsys.readouterr().err
    assert deaths(pool) - before == 1
    status = pq.read_table(tmp_path / "run/scores.parquet")["status"].to_pylist()
    assert {row for row, one in enumerate(status) if one == "worker_died"} <= set(range(20, 30))
    assert status[23] == "worker_died"


def test_a_driver_that_is_killed_leaves_no_actor_and_a_folder_that_continues(
    pool: Pool, cluster: Any, tmp_path: Path
) -> None:
    arguments = command(tmp_path, "run", "--ray", cluster.address, "--workers", "1", pause=0.3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-m", "instsel.cli", *arguments], env=environment)
    try:
        wait_until(lambda: shards(tmp_path / "run") >= 3, 150)
        (worker,) = json.loads((tmp_path / "run/progress.json").read_text())["workers"]
        assert is_alive(worker["pid"])
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not is_alive(worker["pid"]), 60)
    assert shards(tmp_path / "run") < 24
    run(command(tmp_path, "run", pause=0))
    run(command(tmp_path, "alone", pause=0))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_run_that_loses_a_node_and_an_actor_is_the_run_on_one_process(
    pool: Pool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", pause=0))
    before = deaths(pool)

    def strike(number: int) -> None:
        if number == 0:
            pids = [worker["pid"] for worker in pool.status()]
            struck = next(node for node in cluster.others if any(has_process(node, pid) for pid in pids))
            cluster.others.remove(struck)
            cluster.remove_node(struck)  # one processor, so one actor, which goes on at the node that had none
        else:
            # A worker of the node that left seems to be at its task until Ray has told the driver. To strike that one
            # again is no second death, and only "at least one" could be asserted.
            wait_until(lambda: deaths(pool) > before, 120)
            kill_worker(pool, 0)

    with disturbed(tmp_path / "run", 4, 2, strike) as struck:
        run(command(tmp_path, "run", "--ray", "auto", "--workers", "2", pause=0.3))
    assert len(struck) == 2 and deaths(pool) - before == 2
    assert_same_run(tmp_path / "alone", tmp_path / "run")


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "nonsense"])
def test_an_address_without_ray_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(command(tmp_path, "run", "--ray", address.format(port=port), "--workers", "2")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("instsel: error: address: "), said
    assert shards(tmp_path / "run") == 0


def test_without_ray_the_extra_is_named(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'instsel\[ray\]'"):
        instsel.ray_workers(scorer, 1)


def test_a_client_without_grpc_is_told_what_to_install(scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(ValueError, match=r"address: a client of Ray .* pip install 'instsel\[ray\]'"):
            instsel.ray_workers(scorer, 1, address=address)
