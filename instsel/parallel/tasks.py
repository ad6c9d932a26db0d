"""Tasks as they travel to a worker, and the bench on which a worker does them."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from instsel.engine.requests import Request
from instsel.engine.results import ScoreBatch, ScoreStats
from instsel.engine.scorer import Scorer
from instsel.engine.scoring import score_batch
from instsel.kernels.float_products import Choices, settle
from instsel.methods.parameters import fields_of, replaced
from instsel.methods.stages import Columns, Slice
from instsel.parallel.failing_scorer import FailingScorer
from instsel.parallel.method_reference import MethodReference
from instsel.parallel.row_references import RowReference
from instsel.runs.shards import PackedShard, pack_shard


class Work(Protocol):
    """What a task asks for; `shared` is what it has in common with other tasks."""

    def run(self, scorer: Scorer, shared: Sequence[Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work for any worker, packed once and sent as often as it takes.

    uses     keys of what it shares with other tasks, which a worker is sent once
    failing  whether nothing is to be forwarded: it killed its worker too often, and its rows are to say so
    """

    number: int
    label: str
    rows: int
    work: bytes
    uses: tuple[str, ...] = ()
    failing: bool = False


@dataclass(frozen=True, slots=True)
class SliceWork:
    """Some rows of a stage; shares the run's `Job`, and the `WholeColumns` that the stage reads at all rows.

    Gives the columns and their cost, or for a run folder with these `settings` their shard, its seconds divided by
    the number of workers, so that those of all shards add up to the run's.
    """

    stage: str
    rows: range
    count: int
    examples: Mapping[int, Any] | RowReference
    columns: Mapping[str, np.ndarray]
    settings: str = ""
    workers: int = 1

    def run(self, scorer: Scorer, shared: Sequence[Any]) -> tuple[Columns, ScoreStats] | PackedShard:
        began = time.monotonic()
        job, columns, *pieces = shared
        whole = columns.open(pieces)
        method, parameters = job.open()
        if isinstance(scorer, FailingScorer):
            parameters = _with_failing_scorers(parameters)
        stage = next(one for one in method.stages if one.name == self.stage)
        examples = self.examples.read() if isinstance(self.examples, RowReference) else self.examples
        part = Slice(self.rows, self.count, parameters, scorer, examples, {**whole, **self.columns})
        found = method.checked(stage, part, stage.compute(part))
        if not self.settings:
            return found, part.stats
        stats = {name: getattr(part.stats, name) for name in part.stats.__slots__}
        stats["wall_seconds"] = (time.monotonic() - began) / self.workers
        return pack_shard(self.stage, self.settings, self.rows, found, stats)


@dataclass(slots=True)
class Job:
    """A method and its parameters, packed apart: a plug-in's parameters are known only once its file is imported.

    choices  for products of the models among the parameters
    """

    method: MethodReference
    parameters: bytes
    choices: Choices = field(default_factory=dict)
    _opened: Any = field(default=None, compare=False)

    def open(self) -> tuple[Any, Any]:
        """The method and its parameters."""
        if self._opened is None:
            if self.choices:
                settle(self.choices)
            self._opened = self.method.find(), pickle.loads(self.parameters)
        return self._opened[0], self._opened[1]


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """Part of a call of `score_batch`, as token ids."""

    requests: list[Request]
    token_logprobs: bool

    def run(self, scorer: Scorer, shared: Sequence[Any]) -> ScoreBatch:
        return score_batch(scorer, self.requests, token_logprobs=self.token_logprobs)


@dataclass(frozen=True, slots=True)
class HiddenWork:
    """Texts to embed."""

    texts: list[str]

    def run(self, scorer: Scorer, shared: Sequence[Any]) -> np.ndarray:
        return scorer.mean_hidden_states(self.texts)


def _with_failing_scorers(parameters: Any) -> Any:
    """Parameters whose own models forward nothing either."""
    values: dict[str, Any] = {}
    for name, _, about in fields_of(type(parameters)):
        given = getattr(parameters, name)
        if about.kind == "model" and given is not None:
            values[name] = FailingScorer(given)
        elif about.kind == "models" and given is not None:
            values[name] = [FailingScorer(one) for one in given]
    return replaced(parameters, **values)


class WorkerTracebackError(Exception):
    """Where in a worker an error arose: the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class Bench:
    """A worker's scorer and what its tasks share."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._shared: dict[str, bytes | Any] = {}

    def keep(self, key: str, packed: bytes) -> None:
        """Keep what tasks share; it is unpacked for the first that uses it."""
        self._shared[key] = packed

    def has(self, key: str) -> bool:
        """Whether it is kept."""
        return key in self._shared

    def forget(self, keys: Iterable[str]) -> None:
        """Let go of what no task will use again."""
        for key in keys:
            self._shared.pop(key, None)

    def run(self, task: Task) -> bytes:
        """Do a task; gives its value or its error, packed for `open_answer`."""
        began = time.perf_counter()
        try:
            scorer = FailingScorer(self.scorer) if task.failing else self.scorer
            value = pickle.loads(task.work).run(scorer, [self._open(key) for key in task.uses])
            return pickle.dumps((value, None, "", time.perf_counter() - began), protocol=5)
        except Exception as error:
            return pack_error(error)

    def _open(self, key: str) -> Any:
        found = self._shared[key]
        if isinstance(found, bytes):
            found = self._shared[key] = pickle.loads(found)
        return found


def pack_error(error: BaseException) -> bytes:
    """An error of a worker, of a kind that the driver can raise."""
    trace = "".join(traceback.format_exception(error))
    try:
        packed = pickle.dumps((None, error, trace, 0.0))
        pickle.loads(packed)  # some errors are made from other arguments than they keep
        return packed
    except Exception:
        plain = RuntimeError(f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}")
        return pickle.dumps((None, plain, trace, 0.0))


def open_answer(packed: bytes) -> tuple[Any, float]:
    """The value of a task and its seconds; raises the error that it met."""
    value, error, trace, seconds = pickle.loads(packed)
    if error is not None:
        error.__cause__ = WorkerTracebackError(trace)
        raise error
    return value, seconds
