"""What a method is: its name, its parameters, its stages, its result; and what running the stages gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.methods.parameters import Parameters
from instsel.methods.stages import Stage

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[P]):
    """What the stages of a method have computed: the columns of all of them by name, and what it cost."""

    columns: Mapping[str, np.ndarray]
    parameters: P
    count: int
    stats: ScoreStats = field(default_factory=ScoreStats)


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
    build: Callable[[Outcome[P]], Any]
    rows: Literal["example", "group"] = "example"
    score: str = "score"
    findings: Callable[[Outcome[P]], dict[str, Any]] = lambda outcome: {}

    def stages_for(self, parameters: P) -> tuple[Stage[P], ...]:
        """The stages that these parameters call for."""
        return tuple(stage for stage in self.stages if stage.when(parameters))
