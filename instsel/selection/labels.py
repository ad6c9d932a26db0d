"""Labels of clusters, as people give them, to numbers."""

from __future__ import annotations

from typing import Any

import numpy as np


def number_labels(clusters: Any, size: int) -> np.ndarray:
    """Number the distinct labels in rising order from 0: int64 `[n]`.

    `clusters` are whole numbers or texts `[n]`, one a row.

    Raises ValueError naming the first row without a label or another length, TypeError for labels of other kinds.

    >>> number_labels(["maths", "code", "maths"], 3)
    array([1, 0, 1])
    """
    if not isinstance(clusters, np.ndarray):  # lists stay the elements that they are
        given, clusters = list(clusters), np.empty(len(clusters), object)
        clusters[:] = given
    if clusters.shape != (size,):
        raise ValueError(f"clusters must be labels [{size}], one for each score, got shape {list(clusters.shape)}")
    values = clusters.tolist()
    missing = [row for row, value in enumerate(values) if value is None or value != value]
    if missing:
        raise ValueError(f"clusters must be a label for each row, but {len(missing)} have none, row {missing[0]} first")
    if not (all(isinstance(v, str) for v in values) or all(isinstance(v, int | np.integer) for v in values)):
        kinds = sorted({type(value).__name__ for value in values})
        raise TypeError(f"clusters must be all whole numbers or all texts, got {', '.join(kinds)}")
    number = {label: place for place, label in enumerate(sorted(set(values)))}
    return np.fromiter((number[value] for value in values), np.int64, size)
