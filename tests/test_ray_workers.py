"""Ray actors on a cluster of several nodes: the numbers of one process, whatever becomes of actors and nodes."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_rows import example_rows
from tiny_model import tiny_model_folder
from worker_faults import assert_same_run, command, disturbed, is_alive, kill_worker, run, shards, use_pool, wait_until

import instsel
from instsel.cli import main
from instsel.parallel import schedule
from instsel.parallel.pool import Pool

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # clusters of several nodes on one machine take minutes to start
NODE = {"num_cpus": 2, "object_store_memory": 80 * 1024**2, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.second = cluster.add_node(**NODE)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def pool(cluster: Any) -> Iterator[Pool]:
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    scorer = instsel.Scorer(tiny_model_folder(), device="cpu", dtype="float32")
    with instsel.ray_workers(scorer, 2) as pool:
        yield pool


def deaths(pool: Pool) -> int:
    return sum(worker["deaths"] for worker in pool.told())


def test_methods_on_actors_are_methods_on_one_process(pool: Pool, scorer: instsel.Scorer) -> None:
    rows = example_rows(40)
    ours, theirs = (instsel.wici(of, rows, num_neighbors=8, num_probes=2) for of in (pool, scorer))
    np.testing.assert_array_equal(ours.one_shot_ifd, theirs.one_shot_ifd)
    np.testing.assert_array_equal(ours.score, theirs.score)
    requests = [(f"demonstration {i // 4}", f" answer {i}") for i in range(24)]
    found, expected = (instsel.score_batch(of, requests).mean_logprob for of in (pool, scorer))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"requests\[0\]: expected token ids"):
        instsel.score_batch(pool, [([5], [10**6])])


def test_a_run_whose_actors_are_killed_is_the_run_on_one_process(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", pause=0))
    before = deaths(pool)
    with disturbed(tmp_path / "run", 5, 2, lambda number: kill_worker(pool, number)) as struck:
        run(command(tmp_path, "run", "--ray", "auto", "--workers", "2", pause=0.3))
    assert len(struck) == 2 and deaths(pool) - before == 2
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_node_that_leaves_costs_what_it_was_doing_and_nothing_else(
    pool: Pool, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_pool(monkeypatch, pool)
    run(command(tmp_path, "alone", pause=0))
    before = deaths(pool)
    leaving, cluster.second = cluster.second, cluster.add_node(**NODE)
    with disturbed(tmp_path / "run", 5, 1, lambda number: cluster.remove_node(leaving)) as struck:
        run(command(tmp_path, "run", "--ray", "auto", "--workers", "2", pause=0.3))
    assert len(struck) == 1 and deaths(pool) > before
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_driver_that_is_killed_leaves_no_actor_and_a_folder_that_continues(
    pool: Pool, cluster: Any, tmp_path: Path
) -> None:
    arguments = command(tmp_path, "run", "--ray", cluster.address, "--workers", "1", pause=0.3)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-m", "instsel.cli", *arguments], env=environment)
    try:
        wait_until(lambda: shards(tmp_path / "run") >= 3, 150)
        (worker,) = json.loads((tmp_path / "run/workers.json").read_text())["workers"]
        assert is_alive(worker["pid"])
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    wait_until(lambda: not is_alive(worker["pid"]), 60)
    assert shards(tmp_path / "run") < 24
    run(command(tmp_path, "run", pause=0))
    run(command(tmp_path, "alone", pause=0))
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_a_ray_dataset_is_scored_in_place(pool: Pool, scorer: instsel.Scorer) -> None:
    from instsel.integrations.ray_data import Score, together

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"instruction": f"say {i % 5}", "output": f"the thing {i}"} for i in range(20)]
    scored = together(ray.data.from_items(rows, override_num_blocks=4), "instruction").map_batches(
        Score,
        fn_constructor_args=("ifd", tiny_model_folder()),
        fn_constructor_kwargs={"scorer_options": {"device": "cpu", "dtype": "float32"}},
        batch_size=None,
        concurrency=1,
    )
    found = {row["output"]: row for row in scored.take_all()}
    expected = instsel.ifd(scorer, rows).ifd
    np.testing.assert_allclose([found[row["output"]]["ifd"] for row in rows], expected, rtol=1e-5)


def test_what_ray_cannot_give_is_said_at_once(pool: Pool, scorer: instsel.Scorer) -> None:
    with pytest.raises(ValueError, match="workers: 2 with 1 GPU each need 2, and this Ray has 0"):
        instsel.ray_workers(scorer, 2, num_gpus_per_worker=1)
    with pytest.raises(ValueError, match="workers: 99 with 1 CPU each need 99, and this Ray has"):
        instsel.ray_workers(scorer, 99)
    with pytest.raises(ValueError, match="address: this process is connected to another Ray"):
        instsel.ray_workers(scorer, 1, address="127.0.0.1:1")
    with pytest.raises(ValueError, match="workers: expected"):
        instsel.ray_workers(scorer, 0)


def test_workers_of_another_version_are_refused_with_both_named(
    pool: Pool, scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = instsel.__version__
    monkeypatch.setattr(instsel, "__version__", "9.9")
    with pytest.raises(ValueError, match=rf"has instsel {theirs}, and here it is 9\.9"):
        instsel.ray_workers(scorer, 1)


def test_a_model_folder_that_the_node_lacks_is_said_with_the_node(pool: Pool, tmp_path: Path) -> None:
    elsewhere = instsel.Scorer(str(tmp_path / "nowhere"), device="cpu")
    with pytest.raises(ValueError, match=rf"which does not exist \(the worker on {socket.gethostname()}\)"):
        instsel.ray_workers(elsewhere, 1)


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


@pytest.mark.slow
def test_actors_killed_at_ten_random_moments_on_three_nodes(
    pool: Pool, cluster: Any, scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(command(tmp_path, "alone", pause=0))
    monkeypatch.setattr(schedule, "DEATHS_OF_A_TASK", 20)  # kills of ours that meet one shard thrice are no fault of it
    third = cluster.add_node(**NODE)
    rng = random.Random(0)
    try:
        with instsel.ray_workers(scorer, 3) as three:
            use_pool(monkeypatch, three)
            strike = lambda number: kill_worker(three, rng.randrange(3))  # noqa: E731
            with disturbed(tmp_path / "run", 2, 10, strike) as struck:
                run(command(tmp_path, "run", "--ray", "auto", "--workers", "3", pause=0.8))
            assert len(struck) == 10 and deaths(three) >= 8
    finally:
        cluster.remove_node(third)
    assert_same_run(tmp_path / "alone", tmp_path / "run")
