"""Means of a model's final hidden states over the tokens of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from instsel.engine.model_session import ModelSession
from instsel.engine.requests import PreparedRequests
from instsel.engine.scoring import Executor
from instsel.engine.token_progress import ProgressLike
from instsel.kernels.devices import to_host
from instsel.planning.layout import Layout


def mean_in_session(
    scorer: Executor, session: ModelSession, texts: Sequence[str], progress: ProgressLike
) -> np.ndarray:
    """The means of texts within a session, float32 [n, hidden]; see `Scorer.mean_hidden_states`."""
    model, tokenizer = session.info, scorer.tokenizer
    assert tokenizer is not None
    encoded = [np.asarray(ids, np.int32) for ids in tokenizer(list(texts))["input_ids"]] if len(texts) else []
    # The tree leaves out a sequence's last token, so every text gets one more; what it is has no influence.
    sequences = [np.append(ids[: model.max_length], ids[-1:]) for ids in encoded]
    prepared = PreparedRequests.from_ids(sequences, [min(len(s), 1) for s in sequences])
    total = np.zeros((len(sequences), model.config.hidden_size), np.float64)

    def output(layout: Layout, rows: Tensor) -> Callable[[], np.ndarray]:
        return to_host(rows.float())

    with scorer.execute(session, prepared, output, logits=False, progress=progress) as (execution, results):
        for layout, hidden in results:
            layout.add_by_sequence(hidden[layout.pair_row[layout.scored_pair]], total)
    total[execution.failed] = np.nan
    count = np.maximum(np.diff(prepared.offsets) - 1, 0)
    with np.errstate(invalid="ignore"):
        return (total / count[:, None]).astype(np.float32)
