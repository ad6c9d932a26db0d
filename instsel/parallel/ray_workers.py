"""Pools of Ray actors, and the connection to Ray that they stand on."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

from instsel.engine.scorer import Scorer
from instsel.optional_packages import need_package
from instsel.parallel.moved_scorer import check_can_move
from instsel.parallel.pool import PATIENCE, Pool
from instsel.parallel.ray_actors import RayActors

_SECONDS = 5.0  # to wait for something to listen at an address
_QUIET = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}


def ray_workers(
    scorer: Scorer,
    workers: int,
    *,
    address: str | None = None,
    num_gpus_per_worker: float | None = None,
    num_cpus_per_worker: float = 1,
    ray_options: Mapping[str, object] | None = None,
    patience: float = PATIENCE,
    seen: str | os.PathLike[str] | None = None,
) -> Pool:
    """A pool of scorers as Ray actors, taken wherever a scorer is taken; needs the extra "ray".

    scorer               made from a hub id, or from a folder that every node has
    workers              actors, each of which loads the model
    address              "auto" for the Ray that runs here, "local" for one of its own, "HOST:PORT" or
                         "ray://HOST:PORT"; None for the one that this process is connected to
    num_gpus_per_worker  by default 1, or 0 where the scorer is for the processor or Ray has no GPU
    num_cpus_per_worker  as many threads too
    ray_options          further arguments of `ray.init`
    patience             seconds for all workers to load their models
    seen                 a file of this machine: workers that all see it read the rows of run folders themselves

    Ray chooses the nodes. An actor that dies is replaced, and what it was doing is done again; a node that leaves
    costs its workers' tasks under way and nothing else.

    Raises ValueError naming the parameter where nothing listens at the address, where Ray has not as many processors
    or GPUs, where a worker cannot load the model or has another version of instsel, transformers or torch; ImportError
    where Ray is not installed.

    >>> with instsel.ray_workers(scorer, 2, address="local") as pool:  # doctest: +SKIP
    ...     influence = instsel.wici(pool, examples)
    """
    check_can_move([scorer])
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers: expected a whole number of at least 1, got {workers!r}")
    for name, value in (("num_gpus_per_worker", num_gpus_per_worker), ("num_cpus_per_worker", num_cpus_per_worker)):
        if value is not None and not value >= 0:
            raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
    need_package("ray", "ray", ">=2.40", extra="ray")
    import ray

    with _own_signals():
        end = _connect(ray, address, workers * num_cpus_per_worker, dict(ray_options or {}))
    try:
        gpus = _gpus(ray, scorer, num_gpus_per_worker)
        _check_room(ray, workers, {"CPU": num_cpus_per_worker, "GPU": gpus})
        file = None if seen is None else os.path.abspath(seen)
        backend = RayActors(ray, scorer, workers, num_cpus=num_cpus_per_worker, num_gpus=gpus, seen=file)
    except BaseException:
        end()
        raise
    return Pool(scorer, backend, patience=patience, end=end)


def _connect(ray: ModuleType, address: str | None, cpus: float, options: dict[str, object]) -> Callable[[], None]:
    """Connect to Ray; gives what ends the connection, which is nothing where there was one."""
    if ray.is_initialized():
        if address not in (None, "auto", ray.get_runtime_context().gcs_address):
            raise ValueError(f"address: this process is connected to another Ray than {address!r}")
        return lambda: None
    if address is None:
        raise ValueError('address: expected "auto", "local", "HOST:PORT" or "ray://HOST:PORT", as no Ray is connected')
    options = {**_QUIET, **options}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"num_cpus": max(int(-(-cpus // 1)), os.cpu_count() or 1), **options}
    elif address == "auto":
        options.pop("include_dashboard")
    else:
        options.pop("include_dashboard")
        _check_listening(address)
        if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
            raise ValueError(
                "address: a client of Ray (ray://) needs the package grpcio: pip install 'instsel[ray]'; "
                "HOST:PORT connects without it, from a machine that is a node of that Ray"
            )
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError) as error:  # nobody is there, or another version of Ray or Python
        reason = " ".join(str(error).split())
        if "timeout" in reason and "RAY_AUTH_MODE" not in os.environ:  # all that a client is told by one that wants it
            reason += "; for a Ray that asks for a token set RAY_AUTH_MODE=token"
        raise ValueError(f"address: cannot connect to Ray at {address!r}: {reason}") from error
    end: Callable[[], None] = ray.shutdown
    return end


def _check_listening(address: str) -> None:
    """Raise ValueError where nothing listens: Ray itself would try for a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f'address: expected "auto", "local", "HOST:PORT" or "ray://HOST:PORT", got {address!r}')
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ValueError(f"address: nothing answers at {address!r} ({error})") from error


def _gpus(ray: ModuleType, scorer: Scorer, asked: float | None) -> float:
    if asked is not None:
        return asked
    device = scorer.source.device
    if device == "auto":
        return 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    return 1.0 if device.startswith("cuda") else 0.0


def _check_room(ray: ModuleType, workers: int, each: Mapping[str, float]) -> None:
    """Raise ValueError where Ray, even with nothing else to do, could not place all workers."""
    there = ray.cluster_resources()
    for name, amount in each.items():
        if workers * amount > there.get(name, 0):
            raise ValueError(
                f"workers: {workers} with {amount:g} {name} each need {workers * amount:g}, and this Ray has "
                f"{there.get(name, 0):g}"
            )
        if amount and name == "GPU" and max(node["Resources"].get(name, 0) for node in ray.nodes()) < amount:
            raise ValueError(f"num_gpus_per_worker: no node of this Ray has {amount:g} GPUs")


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """A block after which signals are handled as before: Ray would end the process on SIGTERM in its own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
