"""The flags by which a run is spread over workers, and the pool that they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from instsel.commands.options import positive

if TYPE_CHECKING:
    from instsel.engine.scorer import Scorer
    from instsel.parallel.pool import Pool


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """--workers, --devices, --ray and what belongs to it."""
    parser.add_argument("--workers", type=positive, metavar="N", help="so many processes or Ray actors, each a model")
    parser.add_argument(
        "--devices", type=_names, metavar="NAME,...", help="one process each, e.g. cuda:0,cuda:1 or cpu,cpu"
    )
    parser.add_argument(
        "--tensor-parallel", type=positive, metavar="K", help="processes of each worker, which divide every layer"
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="workers as Ray actors: auto, local, HOST:PORT or ray://HOST:PORT"
    )
    parser.add_argument(
        "--num-gpus-per-worker", type=_amount, metavar="X", help="of each Ray actor; default 1, or 0 with --device cpu"
    )


def wants_workers(args: argparse.Namespace) -> bool:
    """Whether the flags ask for a pool; raises ValueError for flags that do not go together."""
    if args.ray is None and args.num_gpus_per_worker is not None:
        raise ValueError("--num-gpus-per-worker is for --ray; --devices names the GPUs of this machine")
    if args.ray is not None and args.devices is not None:
        raise ValueError("--devices names the GPUs of this machine, and --ray lets Ray choose; give one of them")
    if args.ray is not None and args.workers is None:
        raise ValueError("--ray needs --workers: the number of actors")
    if args.devices is not None and args.workers not in (None, len(args.devices)):
        raise ValueError(f"--workers {args.workers} does not go with {len(args.devices)} --devices")
    if args.tensor_parallel is not None and (args.ray is not None or args.devices is not None or args.workers is None):
        raise ValueError("--tensor-parallel goes with --workers, and neither with --ray nor with --devices")
    return args.workers is not None or args.devices is not None


def open_pool(args: argparse.Namespace, scorer: Scorer, rows: Path) -> Pool:
    """The pool that the flags ask for, its models loaded; workers that see the file `rows` read from it themselves."""
    if args.ray is not None:
        from instsel.parallel.ray_workers import ray_workers

        gpus = args.num_gpus_per_worker
        return ray_workers(scorer, args.workers, address=args.ray, num_gpus_per_worker=gpus, seen=rows)
    from instsel.parallel.workers import workers

    return workers(scorer, args.devices or args.workers, tensor_parallel=args.tensor_parallel or 1)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"expected NAME,..., got {text!r}")
    return names


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return value
