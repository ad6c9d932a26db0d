"""vLLM's offline engine with prompt log-probabilities, on a GPU where vLLM is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel
from workloads import Workload

BATCH_SIZES = (0,)


def prepare(model: PreTrainedModel, work: Workload, batch_size: int) -> Callable[[], np.ndarray]:
    """Writes the model to a folder and loads it there; vLLM chooses its batches itself."""
    import vllm

    folder = tempfile.mkdtemp(prefix="vllm-model-")
    model.save_pretrained(folder)
    longest = max(len(context) + len(continuation) for context, continuation in work.requests)
    engine = vllm.LLM(
        model=folder,
        skip_tokenizer_init=True,
        dtype=str(model.dtype).removeprefix("torch."),
        enable_prefix_caching=True,
        max_model_len=longest + 1,
        gpu_memory_utilization=0.6,
    )
    parameters = vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    prompts = [{"prompt_token_ids": context + continuation} for context, continuation in work.requests]

    def score() -> np.ndarray:
        outputs = engine.generate(prompts, parameters, use_tqdm=False)
        scores = []
        for output, (context, continuation) in zip(outputs, work.requests, strict=True):
            found = output.prompt_logprobs[len(context) :]
            scores.append(np.mean([found[i][token].logprob for i, token in enumerate(continuation)]))
        return np.array(scores)

    return score
