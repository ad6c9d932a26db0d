"""The parts that a method is made of: stages, and the slice of rows that a stage's function works on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.engine.token_progress import ProgressLike
from instsel.methods.parameters import Parameters, read_moment
from instsel.methods.turn_requests import TurnRequests, combined, flat
from instsel.prompts.scored_turns import scored_turns
from instsel.prompts.templates import REFUSALS, turn_prompts
from instsel.records import Unreadable

if TYPE_CHECKING:
    from instsel.engine.requests import Request
    from instsel.engine.results import ScoreBatch
    from instsel.engine.scorer_protocol import ScorerProtocol
    from instsel.records import Example

Columns = dict[str, np.ndarray]  # each with one entry a row; a two-dimensional one is a list in each row
P = TypeVar("P", bound=Parameters)
UNREADABLE = "unreadable"  # status of a row that is no example, or none that the template takes


class RefusedRequest(tuple[str, str]):
    """The request in place of one that the template refuses: nothing to score, and a status that says so."""

    def __new__(cls) -> RefusedRequest:
        return super().__new__(cls, ("", ""))


def pool_rows(parameters: Parameters, count: int) -> int:
    """The length of a stage that has a row for each of the pool's."""
    return count


@dataclass(slots=True)
class StageSlice(Generic[P]):
    """What a stage's function sees: some rows of the stage, and what it needs to compute their columns.

    rows        of the stage; all of them for one that is `whole`
    count       rows in the pool
    parameters  of the method, checked
    scorer      the model
    examples    by row: those that the stage says it needs, by default `rows`
    columns     of the earlier stages that it reads, at these rows (or at all rows, for `reads_whole`)
    stats       what has been spent so far
    """

    rows: range
    count: int
    parameters: P
    scorer: ScorerProtocol
    examples: Mapping[int, Any] = field(default_factory=dict)
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    progress: ProgressLike = None
    stats: ScoreStats = field(default_factory=ScoreStats)

    def request(self, row: int, demonstration: Example | None = None, demonstration_row: int | None = None) -> Request:
        """Row `row`'s answer after its prompt, and before that a demonstration; a blank answer is none.

        Where several turns of a conversation are scored it is a `TurnRequests`, which `score` takes as one request.
        """
        return self.request_of(self.examples[row], demonstration, row=row, demonstration_row=demonstration_row)

    def request_of(
        self,
        example: Example,
        demonstration: Example | None = None,
        *,
        row: int | None = None,
        demonstration_row: int | None = None,
    ) -> Request:
        """The same for an example that is no row of the pool, or is one in another form.

        Raises ValueError where the template refuses an example that belongs to no row.
        """
        if isinstance(example, Unreadable) or isinstance(demonstration, Unreadable):
            return "", ""
        parameters = self.parameters
        try:
            turns = scored_turns(example, parameters.score_turns)
            found = turn_prompts(
                parameters.template,
                turns,
                demonstration=demonstration,
                tokenizer=self.scorer.tokenizer,
                moment=read_moment(parameters.template_date),
                settings=parameters.chat_settings(),
            )
        except REFUSALS:
            if row is None and demonstration_row is None:
                raise
            return RefusedRequest()
        if parameters.score_turns != "last":
            return TurnRequests(found)
        return found[0] if example.response.strip() else (found[0][0], "")

    @property
    def answered(self) -> np.ndarray:
        """Which of the rows have an answer that is not blank, bool `[r]`."""
        return np.array([bool(self.examples[row].response.strip()) for row in self.rows], bool)

    @property
    def token_limit(self) -> int | None:
        """Longest sequence in tokens that will be scored; None where nothing limits it."""
        from instsel.engine.requests import token_limit

        return token_limit(self.scorer.outline, self.parameters.max_length)

    def score(
        self, requests: Iterable[Request], *, scorer: ScorerProtocol | None = None, token_logprobs: bool = False
    ) -> ScoreBatch:
        """`instsel.score_batch` of these requests, under the slice's scorer or another, its cost noted."""
        from instsel.engine.scoring import score_batch

        if isinstance(requests, Iterator):
            requests = list(requests)
        requests = cast("list[Any]", requests)
        batch = score_batch(
            scorer or self.scorer,
            flat(requests),
            token_logprobs=token_logprobs,
            max_length=self.parameters.max_length if scorer in (None, self.scorer) else None,
            progress=self.progress,
        )
        self.stats += batch.stats
        batch = combined(batch, requests)
        refused = [isinstance(request, RefusedRequest) for request in requests]
        if any(refused):
            batch = replace(batch, status=np.where(refused, UNREADABLE, batch.status))
        return batch


@dataclass(frozen=True, slots=True)
class Stage(Generic[P]):
    """A part of a method: columns computed from a slice of rows, kept once they are whole.

    name         of its files in a run folder: lower-case letters and underscores
    compute      from a slice to its columns, each with one entry a row; a column "status" is counted
    reads        earlier stages whose columns it needs at its own rows
    reads_whole  earlier stages whose columns it needs at all rows
    whole        whether its rows depend on all rows, so that it is computed at once
    in_driver    whether it is so little work that a pool of workers does not get it; so too where it is `whole`
    needs        the rows whose examples it works with; by default its own, and none where it is `whole`
    requests     what a slice will score, for a plan; None where a stage scores nothing
    guess        of a stage that scores something, stand-ins for a slice's columns by which a plan can go on, as
                 `compute` but with no forward; the columns of one that scores nothing are computed for it
    when         whether these parameters call for it
    length       its rows, given the parameters and the pool's; by default the pool's
    slice_rows   rows at a time, at most
    """

    name: str
    compute: Callable[[StageSlice[P]], Columns]
    reads: tuple[str, ...] = ()
    reads_whole: tuple[str, ...] = ()
    whole: bool = False
    in_driver: bool = False
    needs: Callable[[StageSlice[P]], Iterable[int]] | None = None
    requests: Callable[[StageSlice[P]], list[Request]] | None = None
    guess: Callable[[StageSlice[P]], Columns] | None = None
    when: Callable[[P], bool] = lambda parameters: True
    length: Callable[[P, int], int] = pool_rows
    slice_rows: int = 512

    @property
    def is_divided(self) -> bool:
        """Whether a pool of workers gets its slices."""
        return not (self.whole or self.in_driver)

    def needed(self, part: StageSlice[P]) -> list[int]:
        """The rows whose examples a slice needs, in rising order."""
        if self.needs is not None:
            return sorted({int(row) for row in self.needs(part)})
        return [] if self.whole else list(part.rows)

    def checked(self, part: StageSlice[P], columns: object) -> Columns:
        """What `compute` gave; ValueError where it is not columns with one entry a row."""
        if not isinstance(columns, Mapping):
            raise ValueError(f"stage {self.name}: expected columns, a mapping of arrays, got {type(columns).__name__}")
        for name, values in columns.items():
            if not hasattr(values, "__len__") or len(values) != len(part.rows):
                found = len(values) if hasattr(values, "__len__") else type(values).__name__
                raise ValueError(
                    f"stage {self.name}: column {name!r} must have an entry for each of {len(part.rows)} rows, "
                    f"got {found}"
                )
        return self._without_unreadable(part, dict(columns))

    def _without_unreadable(self, part: StageSlice[P], columns: Columns) -> Columns:
        """The columns, with the status of rows that cannot be read, and no number for them beside it."""
        if self.length is not pool_rows:
            return columns
        unreadable = np.array([isinstance(part.examples.get(row), Unreadable) for row in part.rows], bool)
        if not unreadable.any():
            return columns
        has_status = "status" in columns
        for name, values in columns.items():
            found = np.asarray(values)
            where = unreadable.reshape(-1, *[1] * (found.ndim - 1))
            if name == "status" or name.endswith("_status"):
                columns[name] = np.where(where, UNREADABLE, found)
            elif has_status and found.dtype.kind == "f":
                columns[name] = np.where(where, found.dtype.type(np.nan), found)
        return columns


def columns_for(stage: Stage, rows: range, known: Mapping[str, Mapping[str, np.ndarray]]) -> Columns:
    """The columns that a stage reads, at `rows` of it, from the whole columns of earlier stages.

    A stage that the parameters did not call for has no columns. Later stages' columns stand for earlier ones' of the
    same name.
    """
    found: Columns = {}
    for name in (*stage.reads_whole, *stage.reads):
        for column, values in known.get(name, {}).items():
            found[column] = values if name in stage.reads_whole else values[rows.start : rows.stop]
    return found


def first_failure(*statuses: np.ndarray) -> np.ndarray:
    """Elementwise the first status that is not "ok"; "ok" where all are."""
    out = statuses[-1]
    for status in statuses[-2::-1]:
        out = np.where(status != "ok", status, out)
    return out


if not TYPE_CHECKING:  # a type checker would take any name for one of this module

    def __getattr__(name: str) -> Any:
        """`Slice`, the former name of `StageSlice`, is kept for one version, for plug-ins."""
        if name != "Slice":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn("instsel.methods.stages.Slice is now StageSlice", DeprecationWarning, stacklevel=2)
        return StageSlice
