"""A slice of a stage's rows as a method's executor would give it, for calling a stage's function by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import instsel
from instsel.methods.parameters import Parameters, replaced
from instsel.methods.stages import StageSlice


def slice_of(
    scorer: instsel.Scorer,
    records: Sequence[Any] | Mapping[int, Any],
    rows: range | None = None,
    parameters: Parameters | None = None,
    **columns: np.ndarray,
) -> StageSlice[Any]:
    """Rows of records, by default all of them, with whole columns of earlier stages cut to these rows."""
    rows = range(len(records)) if rows is None else rows
    examples = dict(records) if isinstance(records, Mapping) else dict(enumerate(records))
    cut = {name: values[rows.start : rows.stop] for name, values in columns.items()}
    told = parameters or Parameters()
    told = replaced(told, template="plain") if told.template == "auto" else told  # which whoever runs a method settles
    return StageSlice(rows, len(records), told, scorer, examples, cut)
