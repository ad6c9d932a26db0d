"""A distilabel step that adds a method's columns to its rows: the model is there from `load` to `unload`."""

# No `from __future__ import annotations`: distilabel reads the annotations of `process` as objects.
import gc
from typing import Any

from instsel import Scorer
from instsel.methods.in_memory import run_in_memory
from instsel.optional_packages import need_package
from instsel.runs.column_names import allot_names

need_package("distilabel", "distilabel", ">=1.5,<2", extra="distilabel")

from distilabel.steps import Step, StepInput
from distilabel.typing import StepOutput
from pydantic import Field, PrivateAttr

COLUMNS = {
    "perplexity": ["mean_logprob", "sum_logprob", "perplexity", "num_tokens", "is_greedy", "status"],
    "ifd": ["direct", "conditional", "ifd", "num_tokens", "status"],
    "grape": ["best", "scores", "status"],
}


class InstselScores(Step):
    """Scores of each row under a causal model; the rows of a batch are scored together.

    model       name or folder of the model
    method      perplexity, ifd or grape: one whose rows do not depend on each other
    parameters  of the method, such as {"template": "chat"}
    scorer      keywords of `instsel.Scorer`, such as {"dtype": "bfloat16"}

    A column that rows have already becomes `instsel_NAME`, or `instsel_NAME_2` and so on. Raises ValueError or
    TypeError naming the parameter when it is loaded.

    >>> step = InstselScores(name="difficulty", model="Qwen/Qwen2.5-0.5B", method="ifd")  # doctest: +SKIP
    """

    model: str
    method: str = "perplexity"
    parameters: dict[str, Any] = Field(default_factory=dict)
    scorer: dict[str, Any] = Field(default_factory=dict)
    _loaded: Scorer | None = PrivateAttr(default=None)

    @property
    def inputs(self) -> list[str]:
        """Nothing by name: rows may be in any format that instsel knows."""
        return []

    @property
    def outputs(self) -> list[str]:
        """The columns of the method."""
        return COLUMNS.get(self.method, [])

    def load(self) -> None:
        """Load the model."""
        super().load()
        if self.method not in COLUMNS:
            raise ValueError(f"method: expected one of {', '.join(COLUMNS)}, got {self.method!r}")
        self._loaded = Scorer(self.model, **self.scorer)
        _ = self._loaded.model  # its weights, now

    def unload(self) -> None:
        """Give the model's memory back."""
        self._loaded = None
        gc.collect()
        super().unload()

    def process(self, inputs: StepInput) -> StepOutput:
        """The rows with the method's columns."""
        import instsel

        if self._loaded is None:
            raise ValueError("the step is not loaded: call load() first, as a pipeline does")
        method = getattr(instsel, self.method).method
        outcome = run_in_memory(method, self._loaded, inputs, method.parameters(**self.parameters), whole_pool=False)
        found = method.build(outcome).to_dict()
        names = allot_names(COLUMNS[self.method], {name for row in inputs for name in row})
        for i, row in enumerate(inputs):
            row.update({names[n]: found[n][i] for n in COLUMNS[self.method]})
        yield inputs
