"""SGLang's offline engine with `logprob_start_len`: log-probabilities from the continuation's first token on.

Needs the package `sglang`. Prefixes before that place may come from its radix cache; it makes its batches itself.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedModel
from workloads import Workload

from competitors.saved import MEMORY_SHARE, saved

BATCH_SIZES = (1,)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Loads the same weights, once a process."""
    engine = _engine(model)
    ids = [context + continuation for context, continuation in work.requests]
    # The first entry is of the token at this place, and None: the next is the continuation's first.
    starts = [len(context) - 1 for context, _ in work.requests]
    lengths = [len(continuation) for _, continuation in work.requests]

    def score() -> np.ndarray:
        engine.flush_cache()  # the same requests of the last run are in it
        outputs = engine.generate(
            input_ids=ids, sampling_params={"temperature": 0.0, "max_new_tokens": 0}, return_logprob=True,
            logprob_start_len=starts,
        )  # fmt: skip
        return np.array([_mean(one, length) for one, length in zip(outputs, lengths, strict=True)])

    return score


def _mean(output: dict[str, Any], length: int) -> float:
    entries = output["meta_info"]["input_token_logprobs"]
    if len(entries) != length + 1:
        raise ValueError(f"expected {length + 1} log-probabilities, got {len(entries)}")
    return float(np.mean([entry[0] for entry in entries[1:]]))


@functools.cache
def _engine(model: PreTrainedModel) -> Any:
    from sglang import Engine

    folder, dtype, longest = saved(model)
    engine = Engine(
        model_path=str(folder), skip_tokenizer_init=True, dtype=dtype, context_length=longest,
        mem_fraction_static=MEMORY_SHARE, log_level="error",
    )  # fmt: skip
    atexit.register(engine.shutdown)  # its processes outlive this one otherwise
    return engine
