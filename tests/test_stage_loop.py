"""The loop over stages with a store made by hand: what is asked of the store and of workers, and in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest

from instsel.engine.results import ScoreStats
from instsel.methods.method import Method
from instsel.methods.parameters import Parameters
from instsel.methods.stage_loop import Pack, SliceWorkers, run_stages
from instsel.methods.stages import Columns, Stage, StageSlice

ROWS = 10


def double(part: StageSlice[Any]) -> Columns:
    part.stats += ScoreStats(sequences=len(part.rows))
    return {"double": 2.0 * np.array(part.rows), "status": np.full(len(part.rows), "ok")}


def ranks(part: StageSlice[Any]) -> Columns:
    """What depends on all rows."""
    assert part.rows == range(ROWS)
    part.stats += ScoreStats(sequences=ROWS)
    return {"rank": np.argsort(-np.array(part.rows)), "status": np.full(ROWS, "ok")}


def method_of(stage: Stage[Any]) -> Method[Any]:
    return Method("numbers", "of rows", Parameters, (stage,), lambda outcome: outcome)


class Store:
    """Keeps what it is given; lacks the rows that it is made with."""

    def __init__(self, stage: Stage[Any], missing: list[range]) -> None:
        self.method, self.parameters, self.count = method_of(stage), Parameters(), ROWS
        self.missing, self.is_open = missing, False
        self.asked: list[range] = []
        self.kept: dict[int, tuple[list[float], int]] = {}

    def pack(self, stage: str, rows: range, columns: Columns, stats: ScoreStats, seconds: float) -> Any:
        assert seconds >= 0 and stage == self.method.stages[0].name
        return next(iter(columns.values())).tolist(), stats.sequences

    @contextlib.contextmanager
    def open(self, stage: Stage[Any], workers: SliceWorkers | None) -> Iterator[list[range]]:
        self.is_open = True
        yield self.missing
        self.is_open = False

    def part(self, stage: Stage[Any], rows: range) -> StageSlice[Any]:
        self.asked.append(rows)
        return StageSlice(rows, self.count, self.parameters, None)  # type: ignore[arg-type]

    def whole_columns(self, stage: Stage[Any]) -> Columns:
        return {}

    def keep(self, rows: range, packed: Any) -> None:
        assert self.is_open
        self.kept[rows.start] = packed


class Workers(SliceWorkers):
    """Does slices here, the last first, and closes its books when the loop ends."""

    size, sees_disk = 2, True

    def __init__(self, *, finds: bool = True) -> None:
        self.finds, self.runs, self.closed = finds, 0, 0

    def can_run(self, method: Method[Any]) -> bool:
        return self.finds

    def run_slices(
        self, method: Method[Any], stage: Stage[Any], parts: Iterator[StageSlice[Any]], whole: Columns, pack: Pack[Any]
    ) -> Generator[tuple[range, Any], None, None]:
        self.runs += 1
        try:
            for part in reversed(list(parts)):
                yield part.rows, pack(stage.name, part.rows, stage.compute(part), part.stats, 0.0)
        finally:
            self.closed += 1


def test_what_is_missing_of_a_stage_is_computed_slice_by_slice() -> None:
    store = Store(Stage("double", double), [range(0, 3), range(6, 9)])
    run_stages(store, None)  # type: ignore[arg-type]
    assert store.asked == store.missing
    assert store.kept == {0: ([0.0, 2.0, 4.0], 3), 6: ([12.0, 14.0, 16.0], 3)}


@pytest.mark.parametrize("missing", [[range(3, 6)], [range(0, 3), range(6, 9)], [range(9, 10)]])
def test_a_stage_of_all_rows_is_computed_once_whichever_shard_is_missing(missing: list[range]) -> None:
    store = Store(Stage("ranks", ranks, whole=True), missing)
    run_stages(store, Workers())  # type: ignore[arg-type]
    assert store.asked == [range(ROWS)]
    assert store.kept == {
        rows.start: ([float(ROWS - 1 - row) for row in rows], ROWS if rows is missing[0] else 0) for rows in missing
    }, "its cost is the first shard's"


def test_workers_compute_what_is_divided_and_nothing_else() -> None:
    parts = [range(0, 5), range(5, 10)]
    for stage, finds, runs in (
        (Stage("double", double), True, 1),
        (Stage("double", double), False, 0),
        (Stage("double", double, in_driver=True), True, 0),
    ):
        workers = Workers(finds=finds)
        store = Store(stage, parts)
        run_stages(store, workers)  # type: ignore[arg-type]
        assert (workers.runs, workers.closed) == (runs, runs)
        assert store.kept == {start: ([2.0 * (start + i) for i in range(5)], 5) for start in (0, 5)}
        assert list(store.kept) == ([5, 0] if runs else [0, 5]), "kept as they come"
    workers, store = Workers(), Store(Stage("double", double), [])
    run_stages(store, workers)  # type: ignore[arg-type]
    assert workers.runs == 0 and store.asked == [], "nothing is missing, so nothing is sent"


def test_an_error_while_a_result_is_kept_ends_the_workers_run() -> None:
    class Full(Store):
        def keep(self, rows: range, packed: Any) -> None:
            raise OSError("full")

    workers = Workers()
    with pytest.raises(OSError, match="full"):
        run_stages(Full(Stage("double", double), [range(0, 5), range(5, 10)]), workers)  # type: ignore[arg-type]
    assert workers.closed == 1
