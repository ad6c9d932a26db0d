"""What a method's stages work with: the input's rows as records, the scorer, the run folder, the progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from instsel.records import Example, Group, to_examples, to_groups
from instsel.records.formats import Layout
from instsel.runs import RunFolder
from instsel.runs.interrupts import Interrupts
from instsel.runs.progress import StageProgress
from instsel.runs.row_store import RowStore
from instsel.runs.shards import ShardInfo, Stage

if TYPE_CHECKING:
    from instsel.engine.results import ScoreStats
    from instsel.engine.scorer import Request, Scorer


class Session:
    """One run of a method, from opening the input to the last shard."""

    def __init__(self, args: argparse.Namespace, rows: RowStore, layout: Layout, interrupts: Interrupts) -> None:
        self.args, self.rows, self.layout, self.interrupts = args, rows, layout, interrupts
        self.folder: RunFolder | None = None
        self._scorer: Scorer | None = None
        self._rating_scorer: Scorer | None = None
        self._progress: StageProgress | None = None

    @property
    def scorer(self) -> Scorer:
        """The scorer that the flags describe; its weights load when first needed."""
        if self._scorer is None:
            self._scorer = self._open_scorer(self.args.model, self.args.revision)
        return self._scorer

    @property
    def rating_scorer(self) -> Scorer | None:
        """The model named to rate complexity, if one is."""
        if self._rating_scorer is None and self.args.complexity_model is not None:
            self._rating_scorer = self._open_scorer(self.args.complexity_model, None)
        return self._rating_scorer

    def _open_scorer(self, model: str, revision: str | None) -> Scorer:
        from instsel.engine.scorer import Scorer

        args = self.args
        return Scorer(
            model,
            device=args.device,
            dtype=args.dtype,
            backend=args.backend,
            max_batch_tokens=args.max_batch_tokens,
            revision=revision,
            trust_remote_code=args.trust_remote_code,
        )

    @property
    def columns_present(self) -> list[str]:
        """The columns of the input."""
        assert self.folder is not None
        return list(self.folder.manifest["columns"])

    def examples(self, rows: range) -> list[Example]:
        """A slice of the rows as examples."""
        return self._records(to_examples, self.rows.rows(rows.start, rows.stop), rows.start)

    def numbered_examples(self, numbers: Iterable[int]) -> dict[int, Example]:
        """Some rows as examples, by their number."""
        wanted = sorted(set(numbers))
        return dict(zip(wanted, self._records(to_examples, self.rows.take(wanted), 0), strict=True))

    def groups(self, rows: range) -> list[Group]:
        """A slice of the rows as groups of candidate answers."""
        return self._records(to_groups, self.rows.rows(rows.start, rows.stop), rows.start)

    def _records(self, read: Callable[..., list[Any]], rows: list[dict[str, Any]], first: int) -> list[Any]:
        return read(rows, columns=self.args.columns, layout=self.layout, first_row=first)

    def tokens(self, done: int, total: int) -> None:
        """The progress callback for `score_batch`; a signal is noticed here if a library swallowed it."""
        self.interrupts.check()
        if self._progress is not None:
            self._progress.tokens(done, total)

    def run(self, stage: Stage) -> None:
        """Compute what a stage lacks, with a bar."""
        folder = self.folder
        assert folder is not None
        folder.run(stage, on_start=self._begin, on_shard=self._end)
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _begin(self, stage: Stage, rows: range, done_rows: int) -> None:
        if self._progress is None:
            self._progress = StageProgress(stage.name, stage.rows, done_rows=done_rows, quiet=self.args.quiet)
        self._progress.begin(rows)

    def _end(self, stage: Stage, rows: range, info: ShardInfo) -> None:
        if self._progress is not None:
            self._progress.end()

    def columns(self, stage: Stage) -> dict[str, np.ndarray]:
        """The columns of a stage that has run."""
        assert self.folder is not None
        return self.folder.shards.columns(stage)


@dataclass(frozen=True, slots=True)
class Method:
    """A method as the command line runs it.

    stages    the stages in order; each is run before the next is asked for, and the last one holds the result
    requests  requests of a slice of rows as `score_batch` would get them, for --dry-run
    findings  what the summary and the manifest say besides counts and cost, when all stages have run
    """

    name: str
    kind: str  # "example" or "group": what a row is
    parameters: Callable[[argparse.Namespace], dict[str, Any]]
    stages: Callable[[Session], Iterator[Stage]]
    requests: Callable[[Session, range], list[Request]]
    findings: Callable[[Session], dict[str, Any]] = lambda session: {}


def stats_of(stats: ScoreStats) -> dict[str, float]:
    """The cost of a batch as a shard keeps it."""
    return {name: getattr(stats, name) for name in stats.__slots__}
