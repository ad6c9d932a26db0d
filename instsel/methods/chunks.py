"""Methods over many rows: a chunk of rows a call, with one progress over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instsel.engine.results import ScoreStats
from instsel.engine.token_progress import ProgressLike
from instsel.records import Example, Group

Examples = Sequence[Example] | Mapping[int, Example]  # by row; a mapping need hold only the rows that are asked for
Groups = Sequence[Group] | Mapping[int, Group]
Columns = dict[str, np.ndarray]  # each with one entry a row


def in_chunks(
    compute: Callable[[range, ProgressLike], tuple[Columns, ScoreStats]],
    num_rows: int,
    chunk_rows: int,
    progress: ProgressLike,
) -> tuple[Columns, ScoreStats]:
    """Compute the columns of rows 0 to `num_rows` a chunk at a time; the whole columns and the summed cost.

    The tokens in all are reckoned from the rows done so far, as those of later chunks are not known yet.
    """
    parts: list[Columns] = []
    stats = ScoreStats()
    before = 0
    bar: Any = None
    if progress is True:
        from tqdm import tqdm

        bar = tqdm(total=1, unit="tok", unit_scale=True, delay=3.0, dynamic_ncols=True)

    def report(done: int, total: int) -> None:
        expected = max(before + total, round((before + total) * num_rows / max(rows.stop, 1)))
        if bar is not None:
            bar.total = expected
            bar.update(before + done - bar.n)
        elif callable(progress):
            progress(before + done, expected)

    try:
        for start in range(0, max(num_rows, 1), chunk_rows):
            rows = range(start, min(start + chunk_rows, num_rows))
            columns, cost = compute(rows, report if progress else None)
            parts.append(columns)
            stats += cost
            before += cost.tokens_forwarded
    finally:
        if bar is not None:
            bar.close()
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, stats
