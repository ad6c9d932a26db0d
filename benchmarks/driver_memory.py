"""The driver's memory while workers serve a large pool with embeddings: measured over a whole run.

    python benchmarks/driver_memory.py --rows 1000000 --hidden 384 --output benchmarks/results/driver_memory.json

A run of wici goes through the real driver, from the input's file to the merged result: rows are read, tasks packed,
shards written, embeddings centred, scores combined. Only the workers are none: their answers are the columns of a small
run, repeated, with random embeddings of `--hidden` numbers and random probes, made and packed a shard at a time in this
process, so that they count as the driver's too.

Two peaks are given: of all resident memory, and of that part which no file backs, which the system cannot have back.
The search for neighbours is the workers' stage; `--search` rows of it are done here, apart, and timed: the seconds in
which one core searches so many rows among all of them, and its memory.
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from driver_scaling import MODEL, NoCrew, kept_pool
from environment import environment

from instsel.cli import main as instsel_main
from instsel.engine.scorer import Scorer
from instsel.neighbors.nearest import neighbors_of
from instsel.parallel.crew import Done
from instsel.parallel.tasks import Task
from instsel.runs.score_columns import from_table
from instsel.runs.shards import pack_shard

SMALL = 128  # rows of the run whose columns are repeated
ANSWER = "The answer is long enough for an ordinary row of an ordinary pool of instructions. "
FLAGS = ["--model", str(MODEL), "--device", "cpu", "--dtype", "float32", "--quiet"]


def write_pool(path: Path, rows: int, sentences: int) -> None:
    """Rows of so many sentences, every one different."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(rows):
            file.write(
                json.dumps({"instruction": f"Answer question {i}.", "output": f"{ANSWER * sentences}{i}"}) + "\n"
            )


class Repeating(NoCrew):
    """Workers that answer at once, with the columns of another run."""

    def __init__(self, count: int, columns: Mapping[str, Mapping[str, np.ndarray]], rows: int, hidden: int) -> None:
        super().__init__(Scorer(str(MODEL), device="cpu", dtype="float32"), count)
        self.columns, self.rows, self.hidden = columns, rows, hidden

    def send(self, worker: int, task: Task, shared: Mapping[str, bytes]) -> None:
        work = pickle.loads(task.work)
        rng = np.random.default_rng(work.rows.start)
        number = np.arange(work.rows.start, work.rows.stop)
        found = {name: values[number % SMALL] for name, values in self.columns[work.stage].items()}
        if "vector" in found:
            found["vector"] = rng.standard_normal((len(number), self.hidden), np.float32)
            found["text_digest"] = number
        if work.stage == "probes":
            found["probes"] = rng.integers(0, self.rows, found["probes"].shape)
        shard = pack_shard(work.stage, work.settings, work.rows, found, {"wall_seconds": 0.0})
        self.shards[work.stage] = self.shards.get(work.stage, 0) + 1
        self.answers.append(Done(worker, pickle.dumps((shard, None, "", 0.0), protocol=5)))


class Peaks:
    """The highest resident memory, in mebibytes, from `begin` to `end`: all of it, and what no file backs."""

    def __init__(self) -> None:
        self.resident = self.anonymous = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            found = {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")}
            self.resident = max(self.resident, found["VmRSS"])
            self.anonymous = max(self.anonymous, found["RssAnon"])

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self._thread.join()

    def told(self) -> dict[str, float]:
        """For a file."""
        return {"resident_mebibytes": round(self.resident, 1), "anonymous_mebibytes": round(self.anonymous, 1)}


def columns_of_a_small_run(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Each stage's columns of a run without workers."""
    write_pool(folder / "small.jsonl", SMALL, 1)
    assert instsel_main(["wici", str(folder / "small.jsonl"), *FLAGS, "--output", str(folder / "small")]) == 0
    stages = [name for name, *_ in json.loads((folder / "small/manifest.json").read_text())["stages"]]
    paths = {stage: next((folder / "small/shards").glob(f"{stage}-00000-*")) for stage in stages}
    return {stage: from_table(pq.read_table(path).replace_schema_metadata(None)) for stage, path in paths.items()}


def drive(folder: Path, rows: int, hidden: int, workers: int) -> dict[str, Any]:
    """One run; the driver's memory and time."""
    columns = columns_of_a_small_run(folder)
    write_pool(folder / "pool.jsonl", rows, 8)
    crew = Repeating(workers, columns, rows, hidden)
    run = [str(folder / "pool.jsonl"), *FLAGS, "--output", str(folder / "run"), "--workers", str(workers)]
    began = time.monotonic()
    with kept_pool(crew), Peaks() as peaks:
        assert instsel_main(["wici", *run]) == 0
    assert pq.read_metadata(folder / "run/scores.parquet").num_rows == rows
    return {**peaks.told(), "shards": crew.shards, "wall_seconds": round(time.monotonic() - began, 1)}


def search(folder: Path, rows: int, hidden: int, searched: int) -> dict[str, Any]:
    """The search of some rows among so many random ones in a file, as a worker does it."""
    path = folder / "embeddings.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.float32, (rows, hidden))
    for start in range(0, rows, 8192):
        block = np.random.default_rng(start).standard_normal((min(8192, rows - start), hidden), np.float32)
        mapped[start : start + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
    del mapped
    unit = np.load(path, mmap_mode="c")
    with Peaks() as peaks:
        began = time.monotonic()
        neighbors_of(unit, range(1), 32)
        prepared = time.monotonic()
        neighbors_of(unit, range(searched), 32)
        over = time.monotonic()
    seconds = {"prepare_seconds": round(prepared - began, 2), "search_seconds": round(over - prepared, 2)}
    return {"searched": searched, **seconds, **peaks.told()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--search", type=int, default=1024)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = drive(folder, args.rows, args.hidden, args.workers)
        worker = search(folder, args.rows, args.hidden, args.search)
    settings = {name: value for name, value in vars(args).items() if name != "output"}
    result = {"environment": environment(), "settings": settings, "driver": driver, "search_in_a_worker": worker}
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
