"""The loop over a method's stages: what is missing of each is computed here or by workers, and kept as it comes.

Where a run keeps its columns, in memory or in a folder, is its `StageStore`'s.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from itertools import chain
from typing import TYPE_CHECKING, Protocol, TypeVar

from instsel.engine.results import ScoreStats
from instsel.methods.method import Method
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Columns, Stage, StageSlice

if TYPE_CHECKING:
    from instsel.engine.scorer_protocol import ScorerProtocol

P = TypeVar("P", bound=Parameters)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Pack(Protocol[R_co]):
    """Makes of a slice's columns, their cost and its seconds what a store keeps, wherever they were computed."""

    def __call__(self, stage: str, rows: range, columns: Columns, stats: ScoreStats, seconds: float) -> R_co: ...


class SliceWorkers(ABC):
    """A scorer whose workers compute whole slices of stages."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of workers."""

    @property
    @abstractmethod
    def sees_disk(self) -> bool:
        """Whether all workers see the files of this process."""

    @abstractmethod
    def can_run(self, method: Method) -> bool:
        """Whether workers can find the method."""

    @abstractmethod
    def run_slices(
        self, method: Method, stage: Stage, parts: Iterator[StageSlice], whole: Columns, pack: Pack[R]
    ) -> Generator[tuple[range, R], None, None]:
        """Slices of a stage as they come, packed by their workers; `whole` are the columns that every slice has."""


class StageStore(Protocol[P, R]):
    """Where a run's slices come from and what they give is kept."""

    @property
    def method(self) -> Method[P]: ...

    @property
    def parameters(self) -> P: ...

    @property
    def count(self) -> int:
        """Rows of the pool."""

    @property
    def pack(self) -> Pack[R]:
        """How what is to be kept is made, of the stage that is open."""

    def open(self, stage: Stage[P], workers: SliceWorkers | None) -> AbstractContextManager[Iterable[range]]:
        """A block in which a stage is computed, with the slices of what is missing of it."""

    def part(self, stage: Stage[P], rows: range) -> StageSlice[P]:
        """The slice that the stage's function is given."""

    def whole_columns(self, stage: Stage[P]) -> Columns:
        """The columns that a stage reads at all rows."""

    def keep(self, rows: range, packed: R) -> None:
        """Keep what a slice of the open stage gave."""


def run_stages(store: StageStore[P, R], scorer: ScorerProtocol) -> None:
    """Compute what a store lacks of each stage of its method, over the scorer's workers where it has any."""
    pool = scorer if isinstance(scorer, SliceWorkers) and scorer.can_run(store.method) else None
    for stage in store.method.stages_for(store.parameters):
        workers = pool if stage.is_divided else None
        with store.open(stage, workers) as missing, closing(_computed(store, stage, missing, workers)) as found:
            for rows, packed in found:
                store.keep(rows, packed)


def _computed(
    store: StageStore[P, R], stage: Stage[P], missing: Iterable[range], workers: SliceWorkers | None
) -> Generator[tuple[range, R], None, None]:
    slices = iter(missing)
    first = next(slices, None)
    if first is None:
        return
    slices = chain((first,), slices)
    if workers is not None:
        parts = (store.part(stage, rows) for rows in slices)
        with closing(workers.run_slices(store.method, stage, parts, store.whole_columns(stage), store.pack)) as found:
            yield from found
        return
    began = time.monotonic()
    if stage.whole:  # its rows depend on all rows: computed at once, whatever of it is missing
        all_rows = range(stage.length(store.parameters, store.count))
        columns, stats = compute_slice(store.method, stage, store.part(stage, all_rows))
        for rows in slices:
            cut = {name: values[rows.start : rows.stop] for name, values in columns.items()}
            yield rows, store.pack(stage.name, rows, cut, stats, time.monotonic() - began)
            began, stats = time.monotonic(), ScoreStats()
        return
    for rows in slices:
        began = time.monotonic()
        columns, stats = compute_slice(store.method, stage, store.part(stage, rows))
        yield rows, store.pack(stage.name, rows, columns, stats, time.monotonic() - began)


def compute_slice(method: Method[P], stage: Stage[P], part: StageSlice[P]) -> tuple[Columns, ScoreStats]:
    """The columns of a slice, checked, and what they cost."""
    return method.checked(stage, part, stage.compute(part)), part.stats
