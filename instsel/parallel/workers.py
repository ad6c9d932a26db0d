"""Pools of processes on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instsel.engine.scorer import Scorer
from instsel.parallel.local import LocalCrew, threads_for
from instsel.parallel.pool import PATIENCE, Pool, check_can_move


def workers(
    scorer: Scorer,
    devices: Sequence[str] | int | None = None,
    *,
    threads: int | None = None,
    patience: float = PATIENCE,
) -> Pool:
    """A pool of scorers on several devices of this machine, taken wherever a scorer is taken.

    scorer    made from a folder or hub id, which every worker loads for itself
    devices   one worker each, such as ["cuda:0", "cuda:1"] or ["cpu", "cpu"]; a number for so many GPUs, or so many
              processes where the scorer runs on the processor; None for every GPU. For a scorer with a device_map the
              number of workers, which divide the GPUs among them
    threads   of the processor for each worker; by default its cores divided by the workers
    patience  seconds for all workers to load their models

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
    named = devices_for(scorer, devices)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads: expected a whole number of at least 1, got {threads!r}")
    return Pool(scorer, LocalCrew(scorer, named, threads or threads_for(len(named))), patience=patience)


def devices_for(scorer: Scorer, devices: Sequence[str] | int | None) -> list[str]:
    """The device of each worker; raises ValueError where there are not so many."""
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = scorer.source.device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if found else "cpu"
    if scorer.source.device_map is not None:
        return _mapped_devices(devices, found)
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


def _mapped_devices(workers: Any, found: int) -> list[str]:
    """The GPUs of each worker whose model is spread over several."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"devices: with a device_map expected the number of workers, got {workers!r}")
    if not found:
        return ["cpu"] * workers
    if workers > found:
        raise ValueError(f"devices: expected at most {found}, as many GPUs as there are here, got {workers}")
    each = found // workers
    return [",".join(f"cuda:{number}" for number in range(i * each, (i + 1) * each)) for i in range(workers)]
