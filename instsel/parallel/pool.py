"""A pool of workers where a scorer is expected: its calls are done by the workers, with the same numbers."""

from __future__ import annotations

import itertools
import os
import pickle
import time
from collections import ChainMap
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Any, cast

import numpy as np

from instsel.engine.prefix_tree import build_prefix_tree
from instsel.engine.requests import prepare
from instsel.engine.results import ScoreBatch, ScoreStats
from instsel.engine.scorer import Scorer
from instsel.kernels.float_products import Choices
from instsel.methods.method import Method
from instsel.methods.parameters import Parameters, fields_of, replaced
from instsel.methods.stages import Columns, Slice, Stage
from instsel.parallel.crew import Crew, versions
from instsel.parallel.division import divide
from instsel.parallel.failing_scorer import moved
from instsel.parallel.float_choices import choices_of
from instsel.parallel.method_reference import reference_to
from instsel.parallel.schedule import Schedule
from instsel.parallel.tasks import HiddenWork, Job, ScoreWork, SliceWork, Task
from instsel.parallel.whole_columns import Parcels

PATIENCE = 600.0  # seconds for workers to load their models
_SHARE_TOKENS = 65_536  # of a large call a worker gets so many at a time
_SHARES = 16  # a worker, at most

Answers = Generator[tuple[Task, Any, float], None, None]


class Pool(Scorer):
    """Workers on several devices or machines, taken wherever a scorer is taken: see `workers` and `ray_workers`.

    Calls from several threads take turns. Ends with its `with` block, or with `close`.

    Raises what the first worker that cannot load its model says, and ValueError where a worker has another version
    of instsel, transformers or torch.
    """

    def __init__(
        self, scorer: Scorer, crew: Crew, *, patience: float = PATIENCE, end: Callable[[], None] | None = None
    ) -> None:
        super().__init__(**moved(scorer))
        self._end, self._process, self._shut = end, os.getpid(), False
        self._schedule = Schedule(crew, patience=patience)
        self._numbers = itertools.count()
        self._job: tuple[Any, Any, str, bytes] | None = None  # the method and parameters that workers know
        self._outline: Any = None
        began = time.monotonic()
        try:
            self._schedule.start()
            self.resolved = self._check_alike()
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.monotonic() - began

    def _check_alike(self) -> dict[str, str]:
        """Device and dtype that all workers run with."""
        hellos = [(place.name, place.hello) for place in self._schedule.places if place.hello is not None]
        ours = versions()
        found: dict[str, str] = {}
        for place, hello in hellos:
            for name, version in hello.versions.items():
                if version != ours[name]:
                    raise ValueError(
                        f"workers: the worker on {place} ({hello.host}) has {name} {version}, "
                        f"and here it is {ours[name]}"
                    )
            for name in ("device", "dtype"):
                value = getattr(hello, name)
                if found.setdefault(name, value) != value:
                    raise ValueError(f"workers: they run on {name} {found[name]} and {value}; expected one for all")
        return found

    @property
    def arithmetic(self) -> str:
        """By what the workers compute."""
        hellos = [place.hello for place in self._schedule.places if place.hello is not None]
        return "; ".join(sorted({hello.arithmetic for hello in hellos}))

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._schedule.places)

    @property
    def sees_disk(self) -> bool:
        """Whether all workers see the driver's files."""
        return all(place.hello is not None and place.hello.sees_disk for place in self._schedule.places)

    @property
    def model(self) -> Any:
        """Raises ValueError: the models are in the workers."""
        raise ValueError("scorer: a pool of workers has no model in this process; ask the scorer it was made from")

    @property
    def outline(self) -> Any:
        """The model's shapes, made once."""
        if self._outline is None:
            self._outline = Scorer(**moved(self)).outline
        return self._outline

    @property
    def max_length(self) -> int | None:
        """The model's context in tokens; None where its configuration states none."""
        return self.outline.max_length

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a pool of workers cannot be pickled: make it in the process that uses it")

    def __repr__(self) -> str:
        return f"<{self.size} workers of {self.source.name!r}>"

    def told(self) -> list[dict[str, Any]]:
        """What each worker has done so far, and what it is doing."""
        return self._schedule.told()

    @property
    def given_up(self) -> list[str]:
        """The tasks of which three workers died, by name."""
        return list(self._schedule.given_up)

    def close(self) -> None:
        """End the workers; what they were doing is lost."""
        if not self._shut and os.getpid() == self._process:
            self._shut = True
            self._schedule.crew.close()
            if self._end is not None:
                self._end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, tasks: Iterator[Task], shared: Mapping[str, bytes]) -> Answers:
        if self._shut or os.getpid() != self._process:
            raise ValueError("scorer: this pool of workers is closed, or was made in another process")
        return self._schedule.run(tasks, shared)

    def score_elsewhere(
        self, requests: Any, *, token_logprobs: bool = False, max_length: int | None = None, progress: Any = None
    ) -> ScoreBatch:
        """What `score_batch` gives for a pool: requests that share a prefix go to one worker."""
        from instsel.engine.token_progress import open_progress

        began = time.perf_counter()
        prepared = prepare(self, self.outline, requests, max_length)
        first, offsets = prepared.first_scored, prepared.offsets
        tree = build_prefix_tree(prepared.tokens, offsets, chosen=first > 0)
        each = min(max(tree.num_tokens // (self.size * _SHARE_TOKENS), 1), _SHARES)
        shares = [share for share in divide(tree, first > 0, self.size * each) if len(share)]

        def task(number: int, share: np.ndarray) -> Task:
            ids = [prepared.tokens[offsets[i] : offsets[i + 1]] for i in share]
            split = [(s[:f].tolist(), s[f:].tolist()) for s, f in zip(ids, first[share].tolist(), strict=True)]
            return Task(number, f"requests, part {number}", len(share), pickle.dumps(ScoreWork(split, token_logprobs)))

        count = len(prepared)
        mean, total, status = np.full(count, np.nan), np.full(count, np.nan), prepared.status.copy()
        greedy, stats = np.zeros(count, bool), ScoreStats()
        arrays = [np.zeros(0, np.float32)] * count
        running = self._run((task(*one) for one in enumerate(shares)), {})
        # Closed also where a callback raises: the error's traceback would keep the run open, and the next one out.
        with closing(running), open_progress(progress, prepared.tokens_unshared) as advance:
            for done, part, _ in running:
                share = shares[done.number]
                mean[share], total[share] = part.mean_logprob, part.sum_logprob
                greedy[share], status[share] = part.is_greedy, part.status
                stats = stats + part.stats
                advance(part.stats.tokens_unshared)
                for i, values in zip(share.tolist(), part.token_logprobs or (), strict=False):
                    arrays[i] = values
        stats = replace(stats, sequences=count, seconds=time.perf_counter() - began)
        return ScoreBatch(mean, total, prepared.num_tokens, greedy, status, arrays if token_logprobs else None, stats)

    def mean_hidden_states(self, texts: Sequence[str], *, progress: Any = None) -> np.ndarray:
        """`Scorer.mean_hidden_states`, a part of the texts on each worker."""
        texts = list(texts)
        step = max(-(-len(texts) // self.size), 1)
        parts = [texts[start : start + step] for start in range(0, len(texts), step)]
        tasks = (
            Task(number, f"texts, part {number}", len(part), pickle.dumps(HiddenWork(part)))
            for number, part in enumerate(parts)
        )
        found = {task.number: value for task, value, _ in self._run(tasks, {})}
        if not found:
            return np.zeros((0, self.outline.config.hidden_size), np.float32)
        return np.concatenate([found[number] for number in range(len(parts))])

    def can_run(self, method: Method[Any]) -> bool:
        """Whether workers can find the method: one that a script or a notebook defines itself they cannot."""
        return reference_to(method) is not None

    def run_slices(
        self,
        method: Method[Any],
        stage: Stage[Any],
        parts: Iterator[Slice[Any]],
        whole: Columns,
        *,
        settings: str = "",
    ) -> Iterator[tuple[range, Any]]:
        """The columns and costs of slices of a stage, as they come, each computed by a worker.

        With the `settings` of a run folder, its shards in their place.
        `whole` are the columns that the stage reads at all rows, which every slice has; they are sent once a worker,
        and those that are memory-mapped not at all where all workers see the disk.
        """
        parcels = Parcels(f"columns {next(self._numbers)}", whole, seen=self.sees_disk)
        jobs: dict[str, bytes] = {}
        rows_of: dict[int, range] = {}

        def tasks() -> Iterator[Task]:
            for number, part in enumerate(parts):
                job, packed = self._job_of(method, part.parameters)
                jobs[job] = packed
                own = {name: values for name, values in part.columns.items() if values is not whole.get(name)}
                work = SliceWork(stage.name, part.rows, part.count, part.examples, own, settings, self.size)
                rows_of[number] = part.rows
                label = f"{stage.name}, rows {part.rows.start} to {part.rows.stop - 1}"
                uses = (job, *parcels)
                yield Task(number, label, len(part.rows), pickle.dumps(work, protocol=5), uses)

        try:
            for task, value, _ in self._run(tasks(), ChainMap(jobs, cast(Any, parcels))):
                yield rows_of.pop(task.number), value
        finally:
            if not self._shut:
                self._schedule.crew.forget(parcels)

    def _job_of(self, method: Method[Any], parameters: Parameters) -> tuple[str, bytes]:
        """The key and the packed form of a method and its parameters, kept by workers over all stages of a run."""
        if self._job is None or self._job[0] is not method or self._job[1] is not parameters:
            if self._job is not None:
                self._schedule.crew.forget([self._job[2]])
            reference = reference_to(method)
            assert reference is not None
            choices: Choices = {}
            for name, _, about in fields_of(type(parameters)):
                given = getattr(parameters, name)
                models = given if about.kind == "models" else [given] if about.kind == "model" else []
                given_models = [one for one in models or () if one is not None]
                check_can_move(given_models, name)
                for one in given_models if self.resolved["device"] == "cpu" else ():
                    choices |= choices_of(one) or {}
            packed = pickle.dumps(replaced(parameters, progress=None), protocol=5)
            job = pickle.dumps(Job(reference, packed, choices), protocol=5)
            self._job = (method, parameters, f"job {next(self._numbers)}", job)
        return self._job[2], self._job[3]


def check_can_move(scorers: Sequence[Any], parameter: str = "scorer") -> None:
    """Raise ValueError or TypeError for what other processes cannot load for themselves."""
    for scorer in scorers:
        if not isinstance(scorer, Scorer):
            raise TypeError(f"{parameter}: expected a Scorer, got {type(scorer).__name__}")
        if isinstance(scorer, Pool):
            raise ValueError(f"{parameter}: expected a Scorer, got a pool of workers")
        if not isinstance(scorer.source.model, str):
            raise ValueError(
                f"{parameter}: expected one made from a folder or hub id, which other processes can load, got a model "
                "that is loaded in this one"
            )
