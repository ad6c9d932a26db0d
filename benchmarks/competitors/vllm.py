"""vLLM's offline engine with `prompt_logprobs`: each prompt token's own log-probability and no other's.

Needs the package `vllm`. A request that asks for `prompt_logprobs` reads nothing from vLLM's prefix cache (V1 guide,
"Prompt Logprobs with Prefix Caching"), so that every sequence is computed whole; it makes its batches itself.
"""

from __future__ import annotations

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
    from vllm import SamplingParams

    engine = _engine(model)
    settings = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    prompts = [{"prompt_token_ids": context + continuation} for context, continuation in work.requests]

    def score() -> np.ndarray:
        outputs = engine.generate(prompts, settings, use_tqdm=False)
        return np.array([_mean(one.prompt_logprobs, *pair) for one, pair in zip(outputs, work.requests, strict=True)])

    return score


def _mean(logprobs: list[Any], context: list[int], continuation: list[int]) -> float:
    """Of the continuation; each place has a dictionary by token."""
    chosen = zip(logprobs[len(context) :], continuation, strict=True)
    return float(np.mean([place[token].logprob for place, token in chosen]))


@functools.cache
def _engine(model: PreTrainedModel) -> Any:
    from vllm import LLM

    folder, dtype, longest = saved(model)
    return LLM(
        model=str(folder), skip_tokenizer_init=True, dtype=dtype, max_model_len=longest,
        gpu_memory_utilization=MEMORY_SHARE,
    )  # fmt: skip
