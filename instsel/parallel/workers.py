"""Pools of processes on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from instsel.engine.scorer import Scorer
from instsel.parallel.local_processes import LocalProcesses, threads_for
from instsel.parallel.moved_scorer import check_can_move
from instsel.parallel.pool import PATIENCE, Pool


def workers(
    scorer: Scorer,
    devices: Sequence[str] | int | None = None,
    *,
    tensor_parallel: int = 1,
    threads: int | None = None,
    patience: float = PATIENCE,
) -> Pool:
    """A pool of scorers on several devices of this machine, taken wherever a scorer is taken.

    scorer           made from a folder or hub id, which every worker loads for itself
    devices          one worker each, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]; a number for so many GPUs, or so
                     many processes where the scorer runs on the processor; None for every GPU. For a scorer with a
                     device_map the number of workers, which divide the GPUs among them
    tensor_parallel  processes of a worker, each with a part of every layer, by transformers' own plan for the model;
                     `devices` is then the number of workers, and each has so many GPUs
    threads          of the processor for each worker; by default its cores divided by the workers
    patience         seconds for all workers to load their models

    Prefixes that belong together stay on one worker. A worker that dies is replaced, and what it was doing is done
    again; what killed three workers gets the status "worker_died". Workers end with the `with` block, and with this
    process however that ends.

    Raises ValueError or TypeError naming the parameter, and what the first worker says that cannot load the model.

    >>> scorer = instsel.Scorer("stories260k")  # doctest: +SKIP
    >>> with instsel.workers(scorer, ["cpu", "cpu"]) as pool:  # doctest: +SKIP
    ...     batch = instsel.score_batch(pool, [("Once upon a", " time"), ("Once upon a", " table")])
    >>> batch.mean_logprob.round(3).tolist()  # doctest: +SKIP
    [-0.001, -4.781]
    """
    check_can_move([scorer])
    if isinstance(tensor_parallel, bool) or not isinstance(tensor_parallel, int) or tensor_parallel < 1:
        raise ValueError(f"tensor_parallel: expected a whole number of at least 1, got {tensor_parallel!r}")
    if tensor_parallel > 1 and scorer.source.device_map is not None:
        raise ValueError("tensor_parallel: expected 1 with a device_map, which spreads the model in another way")
    named = devices_for(scorer, devices, tensor_parallel)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads: expected a whole number of at least 1, got {threads!r}")
    backend = LocalProcesses(scorer, named, threads or threads_for(len(named) * tensor_parallel), tensor_parallel)
    return Pool(scorer, backend, patience=patience)


def devices_for(scorer: Scorer, devices: Sequence[str] | int | None, each: int = 1) -> list[str]:
    """The device of each worker, or its devices; raises ValueError where there are not so many."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = scorer.source.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if found else "cpu"
    if scorer.source.device_map is not None or each > 1:
        return _groups(devices, found if kind == "cuda" else 0, each)
    if devices is None:
        if not found or kind == "cpu":
            raise ValueError("devices: expected device names or a number of workers, as there is no GPU")
        return [f"cuda:{number}" for number in range(found)]
    if isinstance(devices, int) and not isinstance(devices, bool):
        if devices < 1:
            raise ValueError(f"devices: expected at least 1, got {devices}")
        if kind != "cuda":
            return [kind] * devices
        if devices > found:
            raise ValueError(f"devices: expected at most {found}, as many GPUs as there are here, got {devices}")
        return [f"cuda:{number}" for number in range(devices)]
    if isinstance(devices, (str, bytes, bool)) or not isinstance(devices, Sequence) or not devices:
        raise ValueError(f"devices: expected a list of device names or a number, got {devices!r}")
    for device in devices:
        try:
            known = torch.device(device)
        except (RuntimeError, TypeError):
            raise ValueError(f'devices: expected names such as "cuda:0" or "cpu", got {device!r}') from None
        if known.type == "cuda" and (known.index or 0) >= found:
            raise ValueError(f"devices: {device!r} was asked for, but PyTorch sees {found or 'no'} GPUs")
    return [str(device) for device in devices]


def _groups(workers: object, found: int, each: int) -> list[str]:
    """The GPUs of workers that have several: `each`, or with 1 all that there are divided."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"devices: where a model is divided expected the number of workers, got {workers!r}")
    if not found:
        return ["cpu"] * workers
    if workers * each > found:
        raise ValueError(f"devices: {workers} workers with {each} GPUs each were asked for, but PyTorch sees {found}")
    each = each if each > 1 else found // workers
    return [",".join(f"cuda:{number}" for number in range(i * each, (i + 1) * each)) for i in range(workers)]
