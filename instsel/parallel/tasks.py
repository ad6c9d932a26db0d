"""Tasks as they travel to a worker, and what a worker does them with."""

from __future__ import annotations

import pickle
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instsel.engine.requests import Request
from instsel.engine.results import ScoreBatch
from instsel.engine.scorer_protocol import ScorerProtocol
from instsel.error_text import type_and_first_line
from instsel.methods.method import Method
from instsel.methods.parameters import Parameters, fields_of, replaced
from instsel.methods.stage_loop import Pack, compute_slice
from instsel.methods.stages import StageSlice
from instsel.parallel.failing_scorer import FailingScorer
from instsel.parallel.method_reference import MethodReference
from instsel.records.examples import ReadRow


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work for any worker, packed once and sent as often as it takes.

    uses     keys of what it shares with other tasks, which a worker is sent once
    failing  whether nothing is to be forwarded: it killed its worker too often, and its rows are to say so
    """

    number: int
    label: str
    rows: int
    body: bytes
    uses: tuple[str, ...] = ()
    failing: bool = False


@dataclass(frozen=True, slots=True)
class ComputeSlice:
    """Some rows of a stage; shares the run's `PackedMethod`, and the `WholeColumns` that the stage reads at all rows.

    Gives what `pack` makes of them.
    """

    stage: str
    rows: range
    count: int
    examples: Mapping[int, ReadRow]
    columns: Mapping[str, np.ndarray]
    pack: Pack

    def run(self, scorer: ScorerProtocol, shared: Sequence[Any]) -> Any:
        began = time.monotonic()
        packed_method, columns, *pieces = shared
        whole = columns.open(pieces)
        method, parameters = packed_method.open()
        if isinstance(scorer, FailingScorer):
            parameters = _with_failing_scorers(parameters)
        stage = next(one for one in method.stages if one.name == self.stage)
        part = StageSlice(self.rows, self.count, parameters, scorer, self.examples, {**whole, **self.columns})
        found, stats = compute_slice(method, stage, part)
        return self.pack(self.stage, self.rows, found, stats, time.monotonic() - began)


@dataclass(slots=True)
class PackedMethod:
    """A method and its parameters, packed apart: a plug-in's parameters are known only once its file is imported."""

    method: MethodReference
    parameters: bytes
    _opened: tuple[Method, Parameters] | None = field(default=None, compare=False)

    def open(self) -> tuple[Method, Parameters]:
        """The method and its parameters."""
        if self._opened is None:
            self._opened = self.method.find(), pickle.loads(self.parameters)
        return self._opened[0], self._opened[1]


@dataclass(frozen=True, slots=True)
class ScoreRequests:
    """Part of a call of `score_batch`, as token ids."""

    requests: list[Request]
    token_logprobs: bool

    def run(self, scorer: ScorerProtocol, shared: Sequence[object]) -> ScoreBatch:
        return scorer.score(self.requests, token_logprobs=self.token_logprobs)


@dataclass(frozen=True, slots=True)
class EmbedTexts:
    """Texts to embed."""

    texts: list[str]

    def run(self, scorer: ScorerProtocol, shared: Sequence[object]) -> np.ndarray:
        return scorer.mean_hidden_states(self.texts)


def _with_failing_scorers(parameters: Parameters) -> Parameters:
    """Parameters whose own models forward nothing either."""
    values: dict[str, object] = {}
    for name, _, spec in fields_of(type(parameters)):
        given = getattr(parameters, name)
        if spec.kind == "model" and given is not None:
            values[name] = FailingScorer(given)
        elif spec.kind == "models" and given is not None:
            values[name] = [FailingScorer(one) for one in given]
    return replaced(parameters, **values)


class WorkerTracebackError(Exception):
    """Where in a worker an error arose: the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}"


class TaskExecutor:
    """A worker's scorer and what its tasks share."""

    def __init__(self, scorer: ScorerProtocol) -> None:
        self.scorer = scorer
        self._shared: dict[str, object] = {}

    def keep(self, key: str, packed: bytes) -> None:
        """Keep what tasks share; it is unpacked for the first that uses it."""
        self._shared[key] = packed

    def forget(self, keys: Iterable[str]) -> None:
        """Let go of what no task will use again."""
        for key in keys:
            self._shared.pop(key, None)

    def execute(self, task: Task) -> bytes:
        """Do a task; gives its value or its error, packed for `open_answer`."""
        began = time.perf_counter()
        try:
            scorer: ScorerProtocol = FailingScorer(self.scorer) if task.failing else self.scorer
            value = pickle.loads(task.body).run(scorer, [self._open(key) for key in task.uses])
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
        plain = RuntimeError(type_and_first_line(error))
        return pickle.dumps((None, plain, trace, 0.0))


def is_error(packed: bytes) -> bool:
    """Whether a task met an error."""
    return pickle.loads(packed)[1] is not None


def open_answer(packed: bytes) -> tuple[Any, float]:
    """The value of a task and its seconds; raises the error that it met."""
    value, error, trace, seconds = pickle.loads(packed)
    if error is not None:
        error.__cause__ = WorkerTracebackError(trace)
        raise error
    return value, seconds
