"""What takes minutes on Ray: ten kills over three nodes, nodes that come and go, a Ray dataset."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray_clusters import QUIET, answers, cluster_of, node, start_head
from tiny_model import tiny_model_folder
from worker_faults import assert_same_run, command, deaths, disturbed, kill_worker, run, use_pool, wait_until

import instsel
from instsel.parallel import scheduler

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
LOST = (
    "Starting Ray client server failed", "in start_specific_server", "Initialization failure from server",
    "ray client connection timeout",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with cluster_of(2, 1, 1) as cluster:
        yield cluster


def test_actors_killed_at_ten_random_moments_on_three_nodes(
    cluster: Any, scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(command(tmp_path, "alone", pause=0))
    monkeypatch.setattr(scheduler, "DEATHS_OF_A_TASK", 20)  # our kills that meet one shard thrice are no fault of it
    rng = random.Random(0)
    with instsel.ray_workers(scorer, 3) as pool:
        use_pool(monkeypatch, pool)
        with disturbed(tmp_path / "run", 2, 10, lambda number: kill_worker(pool, rng.randrange(3))) as struck:
            run(command(tmp_path, "run", "--ray", "auto", "--workers", "3", pause=0.8))
        # A kill that meets a worker as it hands its result over costs no task, and no death is told.
        assert len(struck) == 10 and 8 <= deaths(pool) <= 10
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_nodes_that_come_and_go_cost_what_they_were_doing_and_nothing_else(
    cluster: Any, scorer: instsel.Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private.node import Node

    # A node is added by a thread here, where Python lets nobody handle signals; the fixture ends all nodes.
    monkeypatch.setattr(Node, "_register_shutdown_hooks", lambda node: None)
    run(command(tmp_path, "alone", pause=0))
    with instsel.ray_workers(scorer, 4) as pool:
        use_pool(monkeypatch, pool)

        def strike(number: int) -> None:
            cluster.others.append(cluster.add_node(**node(1)))
            cluster.remove_node(cluster.others.pop(0))

        with disturbed(tmp_path / "run", 4, 2, strike) as struck:
            run(command(tmp_path, "run", "--ray", "auto", "--workers", "4", pause=1.5))
        # Ray may start an actor again on the node that is leaving: it dies once more.
        assert len(struck) == 2 and 2 <= deaths(pool) <= 4
    assert_same_run(tmp_path / "alone", tmp_path / "run")


def test_workers_of_another_version_are_refused_with_both_named(
    cluster: Any, scorer: instsel.Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = instsel.__version__
    monkeypatch.setattr(instsel, "__version__", "9.9")
    with pytest.raises(ValueError, match=rf"has instsel {theirs}, and here it is 9\.9"):
        instsel.ray_workers(scorer, 1)


def test_a_ray_dataset_is_scored_in_place(cluster: Any, scorer: instsel.Scorer) -> None:
    from instsel.integrations.ray_data import Score, together

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"instruction": f"say {i % 5}", "output": f"the thing {i}"} for i in range(20)]
    apart = ray.data.from_items(rows, override_num_blocks=4).materialize()
    grouped = together(apart, "instruction").materialize()
    blocks = [[ray.get(block) for block in dataset.get_internal_block_refs()] for dataset in (apart, grouped)]
    held = [[set(block["instruction"].to_pylist()) for block in of if len(block)] for of in blocks]
    assert sum(map(len, held[0])) == 20 and len(held[0]) == 4, "every group in every block"
    assert sum(map(len, held[1])) == 5 and len(held[1]) > 1, "every group in one block"
    scored = grouped.map_batches(
        Score,
        fn_constructor_args=("ifd", tiny_model_folder()),
        fn_constructor_kwargs={"scorer_options": {"device": "cpu", "dtype": "float32"}},
        batch_size=None,
        concurrency=1,
    )
    found = {row["output"]: row for row in scored.take_all()}
    expected = instsel.ifd(scorer, rows).ifd
    np.testing.assert_allclose([found[row["output"]]["ifd"] for row in rows], expected, rtol=1e-5)


def test_a_client_of_a_ray_elsewhere_is_served_by_it(scorer: instsel.Scorer, tmp_path: Path) -> None:
    """By an address that begins with ray://: the driver is no node of that Ray, and speaks to its server."""
    pytest.importorskip("grpc")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    # Ray asks for a token where an earlier Ray has left one, and a client has none unless it is told to: both are told.
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment = {**os.environ, **QUIET, **token, "PYTHONPATH": os.pathsep.join(sys.path)}
    head = start_head(*ports, environment)
    try:
        wait_until(lambda: answers(ports[1]), 120)
        arguments = command(tmp_path, "run", "--ray", f"ray://127.0.0.1:{ports[1]}", "--workers", "2", pause=0)
        for _ in range(6):
            done = subprocess.run(
                [sys.executable, "-m", "instsel.cli", *arguments], env=environment, capture_output=True, text=True
            )
            # Ray forks a server for each client, and loses it where its gRPC threads are busy at that moment: it says
            # so, or fails as it looks at the process that has ended, or the client waits in vain.
            if not any(words in done.stderr for words in LOST):
                break
        else:
            pytest.skip(f"Ray's own server for clients was lost each time: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr
    finally:
        head.terminate()
        head.wait(60)
    run(command(tmp_path, "alone", pause=0))
    assert_same_run(tmp_path / "alone", tmp_path / "run")
