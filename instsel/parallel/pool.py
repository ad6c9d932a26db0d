"""A pool of workers where a scorer is expected: its calls are done by the workers, with the same numbers."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import time
from collections import ChainMap
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import numpy as np

from instsel.engine.execution import PlannedTree
from instsel.engine.model import CausalModel
from instsel.engine.requests import PreparedRequests, Requests, prepare
from instsel.engine.results import ScoreBatch, ScoreStats
from instsel.engine.scorer import Scorer
from instsel.engine.token_progress import ProgressLike, open_progress
from instsel.methods.method import Method
from instsel.methods.stage_loop import Pack, SliceWorkers
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.parallel.division import divide
from instsel.parallel.method_packer import MethodPacker
from instsel.parallel.method_reference import reference_to
from instsel.parallel.moved_scorer import moved
from instsel.parallel.scheduler import Scheduler
from instsel.parallel.tasks import ComputeSlice, EmbedTexts, ScoreRequests, Task
from instsel.parallel.whole_columns import PackedColumns
from instsel.parallel.worker_backend import WorkerBackend, versions
from instsel.planning.prefix_tree import build_prefix_tree
from instsel.runs.run_status import WorkerStatus

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PATIENCE = 600.0  # seconds for workers to load their models
_SHARE_TOKENS = 65_536  # of a large call a worker gets so many at a time
_SHARES = 16  # a worker, at most

R = TypeVar("R")
Answers = Generator[tuple[Task, Any, float], None, None]


class Pool(SliceWorkers):
    """Workers on several devices or machines, taken wherever a scorer is taken: see `workers` and `ray_workers`.

    Calls from several threads take turns; what a call reports progress to cannot call the pool. Ends with its `with`
    block, or with `close`.

    Raises what the first worker that cannot load its model says, and ValueError where a worker has another version
    of instsel, transformers or torch.
    """

    def __init__(
        self,
        scorer: Scorer,
        backend: WorkerBackend,
        *,
        patience: float = PATIENCE,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._unloaded = Scorer(**moved(scorer))  # says what needs no weights
        self.source, self.max_batch_tokens = self._unloaded.source, self._unloaded.max_batch_tokens
        self._end, self._process, self._shut = end, os.getpid(), False
        self._scheduler = Scheduler(backend, patience=patience)
        self._numbers = itertools.count()
        self._packer = MethodPacker(self._numbers, backend)
        try:
            self._scheduler.start()
            self.resolved = self._check_alike()
        except BaseException:
            self.close()
            raise

    def _check_alike(self) -> dict[str, str]:
        """Device and dtype that all workers run with."""
        infos = [(slot.name, slot.info) for slot in self._scheduler.slots if slot.info is not None]
        ours = versions()
        found: dict[str, str] = {}
        for place, info in infos:
            for name, version in info.versions.items():
                if version != ours[name]:
                    raise ValueError(
                        f"workers: the worker on {place} ({info.host}) has {name} {version}, "
                        f"and here it is {ours[name]}"
                    )
            for name in ("device", "dtype"):
                value = getattr(info, name)
                if found.setdefault(name, value) != value:
                    raise ValueError(f"workers: they run on {name} {found[name]} and {value}; expected one for all")
        return found

    @property
    def arithmetic(self) -> str:
        """By what the workers compute."""
        infos = [slot.info for slot in self._scheduler.slots if slot.info is not None]
        return "; ".join(sorted({info.arithmetic for info in infos}))

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self._scheduler.slots)

    @property
    def sees_disk(self) -> bool:
        """Whether all workers see the driver's files."""
        return all(slot.info is not None and slot.info.sees_disk for slot in self._scheduler.slots)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer."""
        return self._unloaded.tokenizer

    @functools.cached_property
    def outline(self) -> CausalModel:
        """The model's shapes, made once."""
        return self._unloaded.outline

    @property
    def max_length(self) -> int | None:
        """The model's context in tokens; None where its configuration states none."""
        return self.outline.max_length

    def plan(self, model: CausalModel, prepared: PreparedRequests) -> list[PlannedTree]:
        """The work that prepared requests would be for one worker."""
        return self._unloaded.plan(model, prepared)

    def __getstate__(self) -> NoReturn:
        raise TypeError("a pool of workers cannot be pickled: make it in the process that uses it")

    def __repr__(self) -> str:
        return f"<{self.size} workers of {self.source.name!r}>"

    def status(self) -> list[WorkerStatus]:
        """What each worker has done so far, and what it is doing."""
        return self._scheduler.status()

    @property
    def given_up(self) -> list[str]:
        """The tasks of which three workers died, by name."""
        return list(self._scheduler.given_up)

    def close(self) -> None:
        """End the workers; what they were doing is lost."""
        if not self._shut and os.getpid() == self._process:
            self._shut = True
            self._scheduler.backend.close()
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
        return self._scheduler.run_tasks(tasks, shared)

    def score(
        self,
        requests: Requests,
        *,
        token_logprobs: bool = False,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> ScoreBatch:
        """What `score_batch` gives for a pool: requests that share a prefix go to one worker."""
        began = time.perf_counter()
        prepared = prepare(self, self.outline, requests, max_length)
        first, offsets = prepared.first_scored, prepared.offsets
        tree = build_prefix_tree(prepared.tokens, offsets, chosen=first > 0)
        each = min(max(tree.num_tokens // (self.size * _SHARE_TOKENS), 1), _SHARES)
        shares = [share for share in divide(tree, first > 0, self.size * each) if len(share)]

        def task(number: int, share: np.ndarray) -> Task:
            ids = [prepared.tokens[offsets[i] : offsets[i + 1]] for i in share]
            split = [(s[:f].tolist(), s[f:].tolist()) for s, f in zip(ids, first[share].tolist(), strict=True)]
            return Task(
                number, f"requests, part {number}", len(share), pickle.dumps(ScoreRequests(split, token_logprobs))
            )

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

    def mean_hidden_states(self, texts: Sequence[str], *, progress: ProgressLike = None) -> np.ndarray:
        """`Scorer.mean_hidden_states`, a part of the texts on each worker."""
        texts = list(texts)
        step = max(-(-len(texts) // self.size), 1)
        parts = [texts[start : start + step] for start in range(0, len(texts), step)]
        tasks = (
            Task(number, f"texts, part {number}", len(part), pickle.dumps(EmbedTexts(part)))
            for number, part in enumerate(parts)
        )
        found = {task.number: value for task, value, _ in self._run(tasks, {})}
        if not found:
            return np.zeros((0, self.outline.config.hidden_size), np.float32)
        return np.concatenate([found[number] for number in range(len(parts))])

    def can_run(self, method: Method) -> bool:
        """Whether workers can find the method: one that a script or a notebook defines itself they cannot."""
        return reference_to(method) is not None

    def run_slices(
        self, method: Method, stage: Stage, parts: Iterator[StageSlice], whole: Columns, pack: Pack[R]
    ) -> Generator[tuple[range, R], None, None]:
        """Slices of a stage as they come, each computed and packed by a worker.

        `whole` are the columns that the stage reads at all rows, which every slice has; they are sent once a worker,
        and those that are memory-mapped not at all where all workers see the disk.
        """
        packed_columns = PackedColumns(f"columns {next(self._numbers)}", whole, seen=self.sees_disk)
        packed_methods: dict[str, bytes] = {}
        rows_of: dict[int, range] = {}

        def tasks() -> Iterator[Task]:
            for number, part in enumerate(parts):
                key, packed = self._packer.packed(method, part.parameters)
                packed_methods[key] = packed
                own = {name: values for name, values in part.columns.items() if values is not whole.get(name)}
                body = ComputeSlice(stage.name, part.rows, part.count, part.examples, own, pack)
                rows_of[number] = part.rows
                label = f"{stage.name}, rows {part.rows.start} to {part.rows.stop - 1}"
                uses = (key, *packed_columns)
                yield Task(number, label, len(part.rows), pickle.dumps(body, protocol=5), uses)

        try:
            for task, value, _ in self._run(tasks(), ChainMap(packed_methods, cast(Any, packed_columns))):
                yield rows_of.pop(task.number), value
        finally:
            if not self._shut:
                self._scheduler.backend.forget(packed_columns)
