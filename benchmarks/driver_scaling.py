"""The driver's share of a core when many workers serve a large pool: measured a shard, reckoned for the pool.

    python benchmarks/driver_scaling.py --rows 4096 --output benchmarks/results/driver_scaling.json

A run goes through the real driver: rows are read from its folder, shards are prepared, packed and sent through a
socket, answers are read, unpacked and written. Only the workers are none: their answers are made in this process
without a forward, and the processor time of that is taken off. Embeddings have `--hidden` numbers a row. Stages that
look at all rows are not counted here: they are not the work of serving workers.

From the processor seconds a row and stage follows the driver's share of a core for `--workers` workers that each
forward `--tokens-per-second`, for one million rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pickle
import random
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

import instsel.commands.session as session
from instsel.cli import main as instsel_main
from instsel.engine.scorer import Scorer
from instsel.parallel.crew import Done, Event, Hello, Ready, versions
from instsel.parallel.failing_scorer import FailingScorer
from instsel.parallel.pool import Pool
from instsel.parallel.tasks import Bench, Task

MODEL = Path(session.__file__).parents[1] / "demo" / "model"
WORDS = ("the", "of", "a", "model", "answer", "question", "name", "colour", "number", "list", "write", "explain")


class Random(FailingScorer):
    """Forwards nothing and embeds at random."""

    hidden = 0

    def mean_hidden_states(self, texts: Any, *, progress: Any = None) -> np.ndarray:
        return np.random.default_rng(len(texts)).standard_normal((len(texts), self.hidden), np.float32)


class NoCrew:
    """Workers that answer at once; counts bytes, and the time that the answers took."""

    def __init__(self, scorer: Scorer, count: int) -> None:
        self.places = ["nowhere"] * count
        self.bench = Bench(Random(scorer))
        self.answers: list[Event] = []
        self.not_ours = 0.0
        self.sent = self.received = 0
        self.shards: dict[str, int] = {}
        self.line, other = socket.socketpair()
        threading.Thread(target=_drain, args=(other,), daemon=True).start()

    def start(self, worker: int) -> None:
        self.answers.append(Ready(worker, Hello("nowhere", 0, "cpu", "float32", "", versions(), 0.0)))

    def send(self, worker: int, task: Task, shared: Mapping[str, bytes]) -> None:
        packed = pickle.dumps(("task", task))
        self.line.sendall(packed)
        self.sent += len(packed)
        began = time.process_time()
        for key in task.uses:
            if not self.bench.has(key):
                self.bench.keep(key, shared[key])
        answer = self.bench.run(task)
        self.not_ours += time.process_time() - began
        stage = task.label.partition(",")[0]
        self.shards[stage] = self.shards.get(stage, 0) + 1
        self.received += len(answer)
        self.answers.append(Done(worker, answer))

    def forget(self, keys: Iterable[str]) -> None:
        self.bench.forget(keys)

    def events(self, timeout: float) -> list[Event]:
        found, self.answers = self.answers, []
        return found

    def stop(self, worker: int) -> None:
        pass

    def close(self) -> None:
        self.line.close()


def _drain(line: socket.socket) -> None:
    while line.recv(1 << 20):
        pass


def write_pool(path: Path, rows: int) -> None:
    """Alpaca's lengths: instructions of about 15 words, answers of about 130."""
    rng = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            text = [" ".join(rng.choices(WORDS, k=max(int(rng.gauss(n, n / 3)), 1))) for n in (15, 130)]
            file.write(json.dumps({"instruction": f"{i} {text[0]}", "input": "", "output": text[1]}) + "\n")


def drive(method: str, rows: int, hidden: int, shard_rows: int) -> dict[str, Any]:
    """One run; the driver's processor seconds, bytes and memory."""
    Random.hidden = hidden
    scorer = Scorer(str(MODEL), device="cpu", dtype="float32")
    crew = NoCrew(scorer, 8)
    per_stage: dict[str, float] = {}
    run = session.Session.run

    def timed(self: Any, stage: Any) -> Any:
        before, other = time.process_time(), crew.not_ours
        try:
            return run(self, stage)
        finally:
            per_stage[stage.name] = time.process_time() - before - (crew.not_ours - other)

    session.Session.run = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, kept_pool(crew):
        write_pool(Path(folder) / "pool.jsonl", rows)
        arguments = [method, f"{folder}/pool.jsonl", "--model", str(MODEL), "--device", "cpu", "--dtype", "float32"]
        arguments += ["--output", f"{folder}/run", "--workers", "8", "--shard-rows", str(shard_rows), "--quiet"]
        assert instsel_main(arguments) in (0, 1)
    session.Session.run = run  # type: ignore[method-assign]
    return {
        "rows": rows,
        "shards": crew.shards,
        "seconds_of_stage": {name: per_stage[name] for name in crew.shards},
        "bytes_sent": crew.sent,
        "bytes_received": crew.received,
        "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


@contextlib.contextmanager
def kept_pool(crew: NoCrew) -> Iterator[None]:
    """A block in which commands that ask for workers get this crew."""
    opened = session.open_pool
    with Pool(Scorer(str(MODEL), device="cpu", dtype="float32"), crew) as pool:
        session.open_pool = lambda *given: contextlib.nullcontext(pool)  # type: ignore[assignment, return-value]
        try:
            yield
        finally:
            session.open_pool = opened


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="wici")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--shard-rows", type=int, default=512)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--tokens-per-row", type=float, default=1400.0, help="forwarded over all stages")
    parser.add_argument("--tokens-per-second", type=float, nargs="+", default=[4_800.0, 10_000.0, 30_000.0])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found = drive(args.method, args.rows, args.hidden, args.shard_rows)
    seconds = sum(found["seconds_of_stage"].values())
    million = 1_000_000
    shares = {}
    for rate in args.tokens_per_second:
        wall = million * args.tokens_per_row / (rate * args.workers)
        shares[f"{rate:g}"] = {"wall_seconds": wall, "share_of_a_core": seconds / args.rows * million / wall}
    result = {
        "environment": environment(),
        "settings": {name: value for name, value in vars(args).items() if name != "output"},
        "driver": found,
        "microseconds_per_row": 1e6 * seconds / args.rows,
        "milliseconds_per_shard": 1e3 * seconds / sum(found["shards"].values()),
        "bytes_per_row": (found["bytes_sent"] + found["bytes_received"]) / args.rows,
        "driver_seconds_per_million_rows": seconds / args.rows * million,
        "by_tokens_per_second_of_a_worker": shares,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
