"""Clusters of Ray nodes on this machine, small in memory and quick to start."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read by Ray's own processes: nothing is sent home, and no Python process is started before one is asked for. Ray would
# give its workers the niceness 15: beside anything else that runs on the machine they take minutes to import torch.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_niceness": "0",
    "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "60",
}
OBJECT_STORE = 80 * 1024**2


def node(num_cpus: int) -> dict[str, Any]:
    """A node's arguments."""
    return {"num_cpus": num_cpus, "object_store_memory": OBJECT_STORE, "include_dashboard": False}


@contextlib.contextmanager
def cluster_of(*num_cpus: int) -> Iterator[Any]:
    """A cluster with nodes of so many processors, the first its head, to which this process is connected.

    `cluster.others` are the nodes that are not the head.
    """
    os.environ.update(QUIET)
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=node(num_cpus[0]))
    try:
        cluster.others = [cluster.add_node(**node(count)) for count in num_cpus[1:]]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def has_process(node: Any, pid: int) -> bool:
    """Whether an actor's process is of a node of a cluster: the node's raylet started it."""
    (raylet,) = node.all_processes["raylet"]
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) == raylet.process.pid
    return False


def start_head(port: int, client_port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A Ray of its own that serves clients, in a process that ends it with itself."""
    arguments = ["start", "--head", "--block", "--port", str(port), "--ray-client-server-port", str(client_port)]
    arguments += ["--num-cpus", "2", "--object-store-memory", str(OBJECT_STORE), "--include-dashboard", "false"]
    return subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def answers(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False
