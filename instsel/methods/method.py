"""What a method is: its name, its parameters, its stages, its result; and what running the stages gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Generic, Literal, TypeVar

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Columns, Stage, StageSlice
from instsel.records.json_types import JsonObject

P = TypeVar("P", bound=Parameters)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[P]):
    """What the stages of a method have computed: the columns of all of them by name, and what it cost."""

    columns: Mapping[str, np.ndarray]
    parameters: P
    count: int
    stats: ScoreStats = field(default_factory=ScoreStats)

    def result(self, kind: type[R], **given: object) -> R:
        """A result of a dataclass whose fields are columns, parameters and `stats`, by their names, or given here."""
        names = [one.name for one in fields(kind) if one.name not in given]  # type: ignore[arg-type]
        known = {"stats": self.stats, **self.columns}
        found = {name: known[name] if name in known else getattr(self.parameters, name) for name in names}
        return kind(**given, **found)


@dataclass(frozen=True, slots=True)
class Method(Generic[P]):
    """A method: what stands in its file, and all that its function, its command and its plan need to know.

    name        its word in Python and on the command line
    help        what it is, in a few words
    parameters  a subclass of `Parameters`
    stages      in order; the last one's columns are the result's, with a column "status"
    build       from the outcome to the Python result
    rows        what a row is: an example with one answer, or a group of candidate answers
    score       the column by which rows are selected, highest first
    findings    what the summary says besides counts and cost, from the last stage's columns
    """

    name: str
    help: str
    parameters: type[P]
    stages: tuple[Stage[P], ...]
    build: Callable[[Outcome[P]], object]
    rows: Literal["example", "group"] = "example"
    score: str = "score"
    findings: Callable[[Outcome[P]], JsonObject] = lambda outcome: {}

    def stages_for(self, parameters: P) -> tuple[Stage[P], ...]:
        """The stages that these parameters call for."""
        return tuple(stage for stage in self.stages if stage.when(parameters))

    def checked(self, stage: Stage[P], part: StageSlice[P], columns: object) -> Columns:
        """What a stage's function gave; ValueError where it is not columns with an entry a row, the last one's statuses
        among them."""
        found = stage.checked(part, columns)
        is_last = stage.name == self.stages[-1].name
        if is_last and part.rows and np.asarray(found.get("status", 0)).dtype.kind not in "UO":
            raise ValueError(
                f'stage {stage.name}: the last stage must give a column "status", "ok" or why a row has no number'
            )
        return found
