"""Scoring a Ray dataset: a callable class for `map_batches`, one model an actor.

    import ray, instsel.integrations.ray_data as scoring

    scored = scoring.together(rows, "instruction").map_batches(
        scoring.Score, fn_constructor_args=("ifd", "Qwen/Qwen2.5-0.5B"), batch_size=None, num_gpus=1, concurrency=8
    )

Needs the extra "ray". For methods whose rows depend on all others, such as wici, see `instsel.ray_workers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from instsel import Scorer, score_batch
from instsel.methods.registry import find_methods
from instsel.optional_packages import need_package
from instsel.runs.column_names import allot_names

need_package("ray", "ray", ">=2.40", extra="ray")

REQUESTS = "score_batch"


class Score:
    """Adds a method's columns to batches of rows: for `Dataset.map_batches(Score, fn_constructor_kwargs={...})`.

    method          the name of a method that scores each row by itself, such as "ifd", "perplexity" or "grape", or
                    "score_batch" for columns prompt and completion (or context and continuation)
    model           a hub id or a folder that every node has
    scorer_options  further arguments of `Scorer`
    prefix          before the names of the new columns
    parameters      of the method

    A column that the rows have already gets the name `instsel_NAME`, or `instsel_NAME_2` and so on. Raises ValueError
    where the method does not exist or its rows depend on all others.
    """

    def __init__(
        self,
        method: str,
        model: str,
        *,
        scorer_options: Mapping[str, Any] | None = None,
        prefix: str = "",
        **parameters: Any,
    ) -> None:
        self.scorer = Scorer(model, **dict(scorer_options or {}))
        self.prefix, self.method = prefix, None
        if method == REQUESTS:
            self.keywords = parameters
            return
        methods = find_methods()
        if method not in methods:
            raise ValueError(f"method: expected one of {', '.join((*methods, REQUESTS))}, got {method!r}")
        self.method = methods[method]
        self.parameters = self.method.parameters(**parameters)
        for stage in self.method.stages_for(self.parameters):
            if stage.whole or stage.reads_whole:
                raise ValueError(
                    f"method: {method} looks at all rows together (its stage {stage.name}), not at batches"
                )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The batch and the method's columns."""
        rows = {name: np.asarray(values).tolist() for name, values in batch.items()}
        found = self._requests(rows) if self.method is None else self._columns(rows)
        named = {f"{self.prefix}{name}": values for name, values in found.items()}
        names = allot_names(named, batch)
        return {**batch, **{names[name]: values for name, values in named.items()}}

    def _columns(self, rows: Mapping[str, list[object]]) -> dict[str, np.ndarray]:
        from instsel.methods.in_memory import run_in_memory

        assert self.method is not None
        return dict(run_in_memory(self.method, self.scorer, rows, self.parameters, whole_pool=False).columns)

    def _requests(self, rows: Mapping[str, list[object]]) -> dict[str, np.ndarray]:
        fields = next((pair for pair in _PAIRS if set(pair) <= set(rows)), None)
        if fields is None:
            raise ValueError(f"columns: expected prompt and completion, got {', '.join(rows)}")
        found = score_batch(self.scorer, list(zip(*(rows[name] for name in fields), strict=True)), **self.keywords)
        names = ("mean_logprob", "sum_logprob", "num_tokens", "is_greedy", "status")
        return {name: getattr(found, name) for name in names}


_PAIRS = (("prompt", "completion"), ("context", "continuation"))


def together(dataset: Any, column: str) -> Any:
    """A dataset in which rows with equal values of `column` lie in one block, so that their prefix is shared.

    Use `batch_size=None` after it: a batch then is a block. Blocks are as many as before.
    """
    return dataset.sort(column)
